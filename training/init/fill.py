"""The weights that `init_from: {mode: weights}` names, which training/init/locate.py has found, read piece by piece."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import chain
from math import prod
from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from cluster.storage.errors import error_class
from configs.base import Artifact, UserError
from configs.text import one_line
from configs.training.init import InitConfig
from configs.training.train import TrainConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.stage import HUGGING_FACE
from training.checkpoint.directory import StoredTensor, open_stored_weights
from training.init.continued import config_differences
from training.init.hf_tensors import open_tensors
from training.init.locate import find_tokenizer, find_weights
from training.init.vocabulary_rows import VocabularyRows, match_rows, move_rows
from training.network.build_model import build_model
from training.network.model_config import make_model_config
from training.records import CHECKPOINT_FILE

_PIECE_BYTES = 64 << 20
"""Most bytes of a tensor that are in host memory at a time, unless it has to be read whole."""


@contextmanager
def open_init_weights(
    model: PreTrainedModel, init: InitConfig, *, tokenizer: Artifact[TrainedTokenizer]
) -> Iterator["InitWeights"]:
    """Open the weights that a model is to begin with, whose parameters may be on the meta device.

    Rows of the vocabulary are matched by what their pieces stand for (training/init/vocabulary_rows.py) if the weights'
    tokenizer is found. Raises UserError on the first tensor that does not fit, and if one is missing or left over.
    """
    directory = find_weights(init)
    source = _configuration(directory)
    old, new = find_tokenizer(init), tokenizer.dir / HUGGING_FACE
    rows = match_rows(old, new) if old else None
    with _open_stored(directory, model) as stored:
        notices = [*_vocabulary_notices(directory, rows), *_difference_notices(directory, source, model.config)]
        yield InitWeights(model, directory, stored, rows, tied=source.tie_word_embeddings, notices=notices)


def check_init_weights(
    config: TrainConfig, init: InitConfig, *, tokenizer: Artifact[TrainedTokenizer] | None = None
) -> None:
    """Raise UserError if the weights that a training begins with have not the shapes of its model.

    Vocabularies are compared if the training's `tokenizer` is known. Of the files sizes are read.
    """
    if tokenizer is not None:
        size = tokenizer.manifest.vocab_size
        model, _ = build_model(make_model_config(config, vocab_size=size, eos_id=1, pad_id=2))
        with open_init_weights(model, init, tokenizer=tokenizer):
            return
    directory = find_weights(init)
    source = _configuration(directory)
    overrides = {key: value for key, value in config.model.overrides.items() if key != "vocab_size"}
    same_rows = config.model_copy(update={"model": config.model.model_copy(update={"overrides": overrides})})
    settings = make_model_config(same_rows, vocab_size=source.vocab_size, eos_id=1, pad_id=2)
    model, _ = build_model(settings)
    with _open_stored(directory, model) as stored:
        InitWeights(model, directory, stored, None, tied=source.tie_word_embeddings, notices=[])


@contextmanager
def _open_stored(directory: Path, model: PreTrainedModel) -> Iterator[Mapping[str, StoredTensor]]:
    with ExitStack() as stack:
        if (directory / CHECKPOINT_FILE).is_file():
            yield stack.enter_context(open_stored_weights(directory))
        else:
            yield stack.enter_context(open_tensors(directory, model))


class InitWeights:
    """Weights in files, as a model has them."""

    def __init__(
        self,
        model: PreTrainedModel,
        directory: Path,
        stored: Mapping[str, StoredTensor],
        rows: VocabularyRows | None,
        *,
        tied: bool,
        notices: list[str],
    ) -> None:
        """Check that `stored`, by names in the model, has all its parameters and no others.

        `tied` says whether input and output embedding are one in the files.
        """
        self.notices = notices
        """Sentences for the user."""
        self._directory, self._stored, self._rows = directory, stored, rows
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._names = _names_by_parameter(model)
        self._vocabulary = self._find_vocabulary(model)
        self._sources: dict[str, str] = {}
        """The name in the files, by the name of the parameter."""
        self._moved = lru_cache(maxsize=1)(self._move)
        ignored = [r"rotary_emb\.inv_freq", *(model._keys_to_ignore_on_load_unexpected or [])]
        for name in stored:
            if name in self._names:
                self._take(name)
            elif not any(re.search(pattern, name) for pattern in ignored):
                raise self._error(
                    f"holds {name}, {_describe_shape(stored[name].shape)}, which the recipe's model has no place for"
                )
        self._finish(model, tied=tied)

    def read(self, name: str, offset: int, into: torch.Tensor) -> None:
        """Fill a one-dimensional tensor with elements of the parameter `name`, from `offset` on."""
        source = self._sources[name]
        if self._is_moved(name, source):
            into.copy_(self._moved(source, self._shapes[name][0]).view(-1)[offset : offset + len(into)])
            return
        width = prod(self._shapes[name][1:])
        step = _rows_of_a_piece(self._shapes[name]) * width
        for start in range(offset, offset + len(into), step):
            stop = min(start + step, offset + len(into))
            first = start // width
            piece = self._stored[source].read(first, -(-stop // width)).reshape(-1)
            into[start - offset : stop - offset].copy_(piece[start - first * width : stop - first * width])

    def _take(self, name: str) -> None:
        """Take the tensor `name` for the parameter that it is of."""
        parameter = self._names[name]
        self._check_shape(name, parameter)
        if parameter not in self._sources:
            self._sources[parameter] = name
        elif not self._are_equal(self._sources[parameter], name):
            raise self._error(
                f"holds another {name} than the one that the recipe ties it to", "set model.tie_word_embeddings: false"
            )

    def _finish(self, model: PreTrainedModel, *, tied: bool) -> None:
        """Take the output layer from the embedding if the files tie them, and check that nothing is missing."""
        ends = [_weight_name(model, layer) for layer in (model.get_input_embeddings(), model.get_output_embeddings())]
        if tied and None not in ends and ends[1] not in self._sources and ends[0] in self._sources:
            self._sources[str(ends[1])] = self._sources[str(ends[0])]
        for name, shape in self._shapes.items():
            if name not in self._sources:
                raise self._error(f"lacks {name}, {_describe_shape(shape)}, of the recipe's model")

    def _check_shape(self, name: str, parameter: str) -> None:
        """Raise UserError if a tensor has not the parameter's shape, but for rows of the vocabulary that are moved."""
        stored, shape = self._stored[name].shape, self._shapes[parameter]
        if parameter in self._vocabulary and stored[1:] == shape[1:]:
            if self._is_moved(parameter, name):
                assert self._rows is not None
                if max(chain.from_iterable(self._rows.sources), default=0) >= stored[0]:
                    raise self._error(
                        f"has {stored[0]:,} rows in its vocabulary and a tokenizer with {self._rows.num_old:,} pieces",
                        "set init_from.tokenizer to the directory with the tokenizer.json that it was trained with",
                    )
                return
            if self._rows is None and stored[0] != shape[0]:
                raise self._error(
                    f"has {stored[0]:,} rows in its vocabulary where the recipe's model has {shape[0]:,}, and no "
                    "tokenizer.json that says what they stand for",
                    "set init_from.tokenizer to the directory with the one that it was trained with",
                )
        if stored != shape:
            raise self._error(
                f"holds {name} as {_describe_shape(stored)}, but in the recipe's model it is {_describe_shape(shape)}"
            )

    def _is_moved(self, parameter: str, source: str) -> bool:
        """Return whether a parameter's rows are those of the files in another order, or other ones."""
        if self._rows is None or parameter not in self._vocabulary:
            return False
        return _reorders(self._rows) or self._stored[source].shape[0] != self._shapes[parameter][0]

    def _move(self, source: str, num_rows: int) -> torch.Tensor:
        assert self._rows is not None
        stored = self._stored[source]
        return move_rows(stored.whole(), self._rows, num_rows)

    def _are_equal(self, one: str, other: str) -> bool:
        shape = self._stored[one].shape
        step = _rows_of_a_piece(shape)
        return shape == self._stored[other].shape and all(
            torch.equal(*(self._stored[name].read(row, min(row + step, shape[0])) for name in (one, other)))
            for row in range(0, shape[0], step)
        )

    def _find_vocabulary(self, model: PreTrainedModel) -> set[str]:
        """Return the parameters with a row for each piece of the vocabulary."""
        layers = [model.get_input_embeddings(), model.get_output_embeddings()]
        parts = {id(getattr(layer, part, None)) for layer in layers for part in ("weight", "bias")}
        return {self._names[name] for name, value in _parameters(model) if id(value) in parts}

    def _error(self, problem: str, remedy: str = "make `model` in the recipe that of the weights") -> UserError:
        return UserError(f"init_from: {self._directory} {problem}; {remedy}")


def _rows_of_a_piece(shape: tuple[int, ...]) -> int:
    return max(1, _PIECE_BYTES // (4 * prod(shape[1:])))


def _parameters(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Parameter]]:
    yield from model.named_parameters(remove_duplicate=False)


def _names_by_parameter(model: PreTrainedModel) -> dict[str, str]:
    """Return, for each name of a parameter, the first one: tied parameters have several."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(parameter), name) for name, parameter in _parameters(model)}


def _weight_name(model: PreTrainedModel, layer: torch.nn.Module | None) -> str | None:
    weight = getattr(layer, "weight", None)
    return next((name for name, parameter in model.named_parameters() if parameter is weight), None)


def _configuration(directory: Path) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        cause = one_line(error)
        raise error_class(error)(f"init_from: transformers does not know the model in {directory}: {cause}") from error


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
    found = config_differences(source.to_dict(), own.to_dict(), besides="tie_word_embeddings")  # which is handled here
    if not found:
        return []
    differences = [f"{key} is {now}, was {before}" for key, (before, now) in found.items()]
    return [f"init_from: the recipe's model is not set as the one in {directory}: {'; '.join(differences)}"]


def _describe_shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
