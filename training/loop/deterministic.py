"""Deterministic kernels, where a pool asks for them: the same numbers from the same work, run after run."""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from cluster.placement import Placement
from configs.base import UserError

_ENVIRONMENT = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS reads it when CUDA starts; the other allowed value is slower
    "FLASH_ATTENTION_DETERMINISTIC": "1",  # transformers reads it at each call
}
_REFUSED = re.compile(r"(\S+) does not have a deterministic implementation")
"""What PyTorch says of an operation that it has no deterministic kernel for."""


@contextmanager
def deterministic_kernels(placement: Placement) -> Iterator[None]:
    """Compute by deterministic kernels while the block runs, if the placement asks for them.

    It is to be entered before CUDA starts, and leaves the process as it was. Raises UserError on an operation that has
    no such kernel.
    """
    if not placement.deterministic:
        yield
        return
    with ExitStack() as undo:
        for name, value in _ENVIRONMENT.items():
            _set_variable(undo, name, value)
        _set_torch(undo)
        try:
            yield
        except RuntimeError as error:
            if (refused := _REFUSED.search(str(error))) is None:
                raise
            raise UserError(
                f"the pool sets `deterministic`, and PyTorch has no deterministic kernel for {refused[1]}, which this "
                "training computes; set `deterministic: false` in the cluster file"
            ) from error


def _set_torch(undo: ExitStack) -> None:
    warns_only = torch.is_deterministic_algorithms_warn_only_enabled()
    before = torch.are_deterministic_algorithms_enabled()
    undo.callback(torch.use_deterministic_algorithms, before, warn_only=warns_only)
    torch.use_deterministic_algorithms(True)  # of compiled kernels too
    # else all new memory is filled with NaN, also the buffers that ZeRO-3 takes anew for each gather
    _set(undo, torch.utils.deterministic, "fill_uninitialized_memory", False)
    _set(undo, torch.backends.cudnn, "deterministic", True)
    _set(undo, torch.backends.cudnn, "benchmark", False)


def _set(undo: ExitStack, owner: Any, name: str, value: bool) -> None:
    undo.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _set_variable(undo: ExitStack, name: str, value: str) -> None:
    before = os.environ.get(name)
    if before is None:
        undo.callback(os.environ.pop, name, None)
    else:
        undo.callback(os.environ.__setitem__, name, before)
    os.environ[name] = value
