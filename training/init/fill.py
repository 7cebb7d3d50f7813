"""Fills a model with the weights that `init_from` names, which training/init/locate.py has found."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from cluster.storage.errors import error_class
from configs.base import Artifact, UserError
from configs.text import one_line
from configs.training import InitConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.stage import HUGGING_FACE
from training.checkpoint.directory import load_weights
from training.init.hf_tensors import read_tensors
from training.init.locate import find_tokenizer, find_weights
from training.init.vocabulary_rows import VocabularyRows, match_rows, move_rows
from training.records import CHECKPOINT_FILE

_KEYS_WITHOUT_EFFECT = re.compile(
    "vocab_size|.*_token_id|max_position_embeddings|transformers_version|architectures|.*dtype|use_cache|_name_or_path|"
    "initializer_range|tie_word_embeddings"
)
"""Keys of a configuration that do not change what the weights compute, or that are handled here."""


def fill_from_init(model: PreTrainedModel, init: InitConfig, *, tokenizer: Artifact[TrainedTokenizer]) -> list[str]:
    """Fill every parameter of an fp32 model, in place, and return notices for the user.

    Rows of the vocabulary are matched by what their pieces stand for (training/init/vocabulary_rows.py) if the weights'
    tokenizer is found. Raises UserError on the first tensor that does not fit, and if one is missing or left over.
    """
    directory = find_weights(Path(init.path))
    source = _configuration(directory)
    old, new = find_tokenizer(init), tokenizer.dir / HUGGING_FACE
    rows = match_rows(old, new) if old else None
    is_checkpoint = (directory / CHECKPOINT_FILE).is_file()
    tensors = _read_checkpoint(directory) if is_checkpoint else read_tensors(directory, model)
    filler = _ModelFiller(model, directory, rows)
    for name, tensor in tensors:
        filler.fill_parameter(name, tensor)
    filler.finish(tied=source.tie_word_embeddings)
    return [*_vocabulary_notices(directory, rows), *_difference_notices(directory, source, model.config)]


class _ModelFiller:
    """Fills a model tensor by tensor."""

    def __init__(self, model: PreTrainedModel, directory: Path, rows: VocabularyRows | None) -> None:
        self.model, self.directory, self.rows = model, directory, rows
        self.targets: dict[str, torch.Tensor] = model.state_dict()
        self.filled: set[int] = set()
        """Addresses of the parameters filled so far: tied weights have one address and several names."""
        self.input: torch.Tensor = model.get_input_embeddings().weight.detach()
        self.output = _weight_and_bias(model.get_output_embeddings())
        self.ignored = [r"rotary_emb\.inv_freq", *(model._keys_to_ignore_on_load_unexpected or [])]

    def fill_parameter(self, name: str, tensor: torch.Tensor) -> None:
        """Copy a tensor into the parameter of its name."""
        target = self.targets.get(name)
        if target is None:
            if any(re.search(pattern, name) for pattern in self.ignored):
                return
            raise self._error(f"holds {name}, {_describe_shape(tensor)}, which the recipe's model has no place for")
        fitted = self._fit(target, tensor)
        if fitted.shape != target.shape:
            raise self._error(
                f"holds {name} as {_describe_shape(tensor)}, but in the recipe's model it is {_describe_shape(target)}"
            )
        if target.data_ptr() not in self.filled:
            target.copy_(fitted)
            self.filled.add(target.data_ptr())
        elif not torch.equal(target, fitted.to(target.dtype)):
            raise self._error(
                f"holds another {name} than the one that the recipe ties it to", "set model.tie_word_embeddings: false"
            )

    def finish(self, *, tied: bool) -> None:
        """Fill the output layer from the embedding if the weights tied them, and check that nothing is missing."""
        if tied and self.output and self.output[0].data_ptr() not in self.filled:
            self.output[0].copy_(self.input)
            self.filled.add(self.output[0].data_ptr())
        for name, parameter in self.model.named_parameters():
            if parameter.data_ptr() not in self.filled:
                raise self._error(f"lacks {name}, {_describe_shape(parameter)}, of the recipe's model")

    def _fit(self, target: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor with the rows of the recipe's vocabulary."""
        by_vocabulary = {part.data_ptr() for part in (self.input, *self.output)}
        if target.data_ptr() not in by_vocabulary or tensor.shape[1:] != target.shape[1:]:
            return tensor
        if self.rows is not None and (_reorders(self.rows) or len(tensor) != len(target)):
            if max(chain.from_iterable(self.rows.sources), default=0) >= len(tensor):
                raise self._error(
                    f"has {len(tensor):,} rows in its vocabulary and a tokenizer with {self.rows.num_old:,} pieces",
                    "set init_from.tokenizer to the directory with the tokenizer.json that it was trained with",
                )
            return move_rows(tensor, self.rows, len(target))
        if self.rows is None and len(tensor) != len(target):
            raise self._error(
                f"has {len(tensor):,} rows in its vocabulary where the recipe's model has {len(target):,}, and no "
                "tokenizer.json that says what they stand for",
                "set init_from.tokenizer to the directory with the one that it was trained with",
            )
        return tensor

    def _error(self, problem: str, remedy: str = "make `model` in the recipe that of the weights") -> UserError:
        return UserError(f"init_from: {self.directory} {problem}; {remedy}")


def _read_checkpoint(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    weights = load_weights(directory)
    for name in list(weights):
        yield name, weights.pop(name)  # to free it once it is copied


def _configuration(directory: Path) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        cause = one_line(error)
        raise error_class(error)(f"init_from: transformers does not know the model in {directory}: {cause}") from error


def _weight_and_bias(head: torch.nn.Module | None) -> list[torch.Tensor]:
    """Return the weight and bias of the output layer, of those that it has."""
    parts = (getattr(head, name, None) for name in ("weight", "bias"))
    return [part.detach() for part in parts if part is not None]


def _reorders(rows: VocabularyRows) -> bool:
    return any(source != [i] for i, source in enumerate(rows.sources))


def _vocabulary_notices(directory: Path, rows: VocabularyRows | None) -> list[str]:
    if rows is None:
        return [
            f"init_from: no tokenizer is known for {directory}; as its vocabulary has the recipe's size, its rows are "
            "taken as they are"
        ]
    num_new = len(rows.sources) - rows.num_kept
    if not num_new:
        return []
    return [
        f"init_from: {rows.num_kept:,} pieces keep their rows, {num_new:,} start from the mean of the pieces of old "
        "that spell them"
    ]


def _difference_notices(directory: Path, source: PretrainedConfig, own: PretrainedConfig) -> list[str]:
    """Return a notice of settings that differ and change no shape, such as a rotary base: nothing else shows them."""
    before, now = source.to_dict(), own.to_dict()
    differences = [
        f"{key} is {now[key]}, was {before[key]}"
        for key in sorted(before.keys() & now.keys())
        if before[key] != now[key] and not _KEYS_WITHOUT_EFFECT.fullmatch(key)
    ]
    if not differences:
        return []
    return [f"init_from: the recipe's model is not set as the one in {directory}: {'; '.join(differences)}"]


def _describe_shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
