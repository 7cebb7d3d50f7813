"""Compiled decoder layers, and how many graphs they take."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from configs.base import UserError
from configs.text import one_line

_MAX_GRAPHS_OF_A_LAYER = 16
"""Variants of a layer's code that may be compiled, such as one for each kind of attention: twice dynamo's limit."""


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each decoder layer in place, at its first call. Raises UserError without a C++ compiler on the CPU.

    What is compiled is the pass of a layer inside the hooks of ZeRO-3, which gather the layer's weights. All layers of
    a kind share one graph. Too many graphs raise an error: dynamo would go on without compiling, in silence.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if not torch.accelerator.is_available() and shutil.which(compiler) is None:
        raise UserError(
            f"the pool sets `compile`, which needs a C++ compiler on the CPU, and there is no {compiler!r}; "
            "install one, name it in the environment variable CXX, or set `compile: false`"
        )
    torch._dynamo.config.recompile_limit = _MAX_GRAPHS_OF_A_LAYER
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for layer in decoder_layers(model):
        layer.forward = torch.compile(layer.forward, dynamic=False)


@contextmanager
def explain_compile_errors() -> Iterator[None]:
    """Raise UserError where a layer cannot be compiled in this block, or would be compiled over and over."""
    try:
        yield
    except FailOnRecompileLimitHit as error:
        raise UserError(
            f"the pool sets `compile`, and a layer would be compiled more than {_MAX_GRAPHS_OF_A_LAYER} times, which "
            f"makes steps slower; set `compile: false` ({one_line(error)[:200]})"
        ) from error
    except TorchDynamoException as error:
        raise UserError(
            f"the pool sets `compile`, and PyTorch cannot compile this model here: {one_line(error)[:300]}; set "
            "`compile: false`"
        ) from error


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers of a model in order."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def count_graphs() -> int:
    """Return how many graphs this process has compiled."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
