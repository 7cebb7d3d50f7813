"""The tensors of a Hugging Face model directory, by their names in a model of transformers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from cluster.storage.errors import error_class
from training.checkpoint.directory import StoredTensor
from training.init.locate import list_weight_files


@contextmanager
def open_tensors(directory: Path, model: PreTrainedModel) -> Iterator[dict[str, StoredTensor]]:
    """Open the tensors of a directory, in the precision of the files; nothing of them is read yet.

    Names and shapes in files may differ from the model's: weights of experts, for example, are one tensor an expert in
    files and one tensor for all in the model. transformers' own rules translate them; a tensor that they make is made
    whole, the others are read in part. Names that the model has no place for are kept as they are.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    known, prefix = model.state_dict(), model.base_model_prefix
    found: dict[str, StoredTensor] = {}
    parts: dict[str, list[tuple[str, str, StoredTensor]]] = {}
    with ExitStack() as stack:
        stored = _open(directory, stack)
        for name in sorted(stored, key=dot_natural_key):  # a converter needs its tensors in this order
            target, pattern = rename_source_key(name, renamings, converters, prefix, known)
            if pattern is None or (target not in known and name in known):
                found[name if target not in known and name in known else target] = stored[name]
            else:
                parts.setdefault(target, []).append((name, pattern, stored[name]))

        @lru_cache(maxsize=1)  # one conversion may make several tensors
        def convert(target: str, *, on_meta: bool) -> dict[str, torch.Tensor]:
            converter: Any = deepcopy(by_pattern[parts[target][0][1]])
            for name, pattern, part in parts[target]:
                converter.add_tensor(target, name, pattern, part.on_meta if on_meta else part.whole)
            made = converter.convert(target, model=model, config=model.config).items()
            return {name: value[0] if isinstance(value, list) else value for name, value in made}

        def read_converted(target: str, name: str, first: int, last: int) -> torch.Tensor:
            return convert(target, on_meta=False)[name][first:last]

        for target in parts:
            for name, tensor in convert(target, on_meta=True).items():
                found[name] = StoredTensor(tuple(tensor.shape), partial(read_converted, target, name))
        yield found


def _open(directory: Path, stack: ExitStack) -> dict[str, StoredTensor]:
    """Open all files; return their tensors by their names in them."""
    found: dict[str, StoredTensor] = {}
    for path in list_weight_files(directory):
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except (OSError, SafetensorError) as error:
            raise error_class(error)(f"init_from: {path} cannot be read ({error}); fetch it again") from error
        for name in file.keys():  # noqa: SIM118  (no mapping)
            shape = tuple(file.get_slice(name).get_shape())
            found[name] = StoredTensor(shape, _reader(file, name, shape))
    return found


def _reader(file: Any, name: str, shape: tuple[int, ...]) -> Callable[[int, int], torch.Tensor]:
    if not shape:
        return lambda *_: file.get_tensor(name)
    return lambda first, last: file.get_slice(name)[first:last]
