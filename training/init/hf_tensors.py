"""Reads the tensors of a Hugging Face model directory, by their names in a model of transformers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from cluster.storage.errors import error_class
from training.init.locate import list_weight_files


def read_tensors(directory: Path, model: PreTrainedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each name and tensor, read one at a time, in the precision of the file.

    Names and shapes in files may differ from the model's: weights of experts, for example, are one tensor an expert in
    files and one tensor for all in the model. transformers' own rules translate them. Names that the model has no place
    for are yielded as they are.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    known, prefix = model.state_dict(), model.base_model_prefix
    groups: dict[str, Any] = {}
    with ExitStack() as stack:
        readers = _open(directory, stack)
        for name in sorted(readers, key=dot_natural_key):  # a converter needs its tensors in this order
            target, pattern = rename_source_key(name, renamings, converters, prefix, known)
            if target not in known and name in known:
                target, pattern = name, None
            if pattern is None:
                yield target, readers[name]()
            else:
                if target not in groups:
                    groups[target] = deepcopy(by_pattern[pattern])
                groups[target].add_tensor(target, name, pattern, readers[name])
        for target, group in groups.items():
            for name, value in group.convert(target, model=model, config=model.config).items():
                yield name, value[0] if isinstance(value, list) else value


def _open(directory: Path, stack: ExitStack) -> dict[str, Callable[[], torch.Tensor]]:
    """Return a function that reads each tensor, by its name in the files."""
    readers: dict[str, Callable[[], torch.Tensor]] = {}
    for path in list_weight_files(directory):
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except (OSError, SafetensorError) as error:
            raise error_class(error)(f"init_from: {path} cannot be read ({error}); fetch it again") from error
        readers |= {name: partial(file.get_tensor, name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    return readers
