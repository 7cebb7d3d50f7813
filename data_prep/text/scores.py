"""Scores of documents, by models of the user's or brought by sources, and lists of hashes of what is blocked.

A model is read from a file whose reading runs no code.
"""

import hashlib
import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cluster.host.files import version_of
from configs.base import UserError
from configs.data.languages import is_of
from configs.data.scores import BlocklistConfig, ScoreConfig
from data_prep.sources.document import Document
from data_prep.text.fasttext_model import load_fasttext, predict
from data_prep.text.filters import Dropping
from data_prep.text.statistics import split_words

_DIGEST = re.compile(rb"[0-9A-Fa-f]{64}")


@dataclass
class Scored:
    """What the scores of a document say."""

    scores: dict[str, float] = field(default_factory=dict)
    dropping: Dropping | None = None
    """Why it is dropped, by the first score that drops it. One that is too high is not shown: it may be toxic."""


class Scorer:
    """The scores and the lists of a source."""

    def __init__(self, scores: tuple[ScoreConfig, ...], blocklists: tuple[BlocklistConfig, ...]) -> None:
        """Raise UserError if a file is missing or is not what it should be."""
        self._scores = [(config, config.labels(), _scorer(config)) for config in scores]
        self._blocklists = [
            (config, _load_digests(config.name, config.path, version_of(Path(config.path)))) for config in blocklists
        ]

    def find_blocked(self, text: str, document: Document) -> str | None:
        """Return the reason if a list has a document; None if none does.

        Raises UserError if it has no text where a list is promised one.
        """
        for config, digests in self._blocklists:
            hashed = text if config.field is None else _read_text(document, config.field, config.name)
            if hashlib.sha256(hashed.encode("utf-8", "surrogatepass")).digest() in digests:
                return f"blocked_{config.name}"
        return None

    def score(self, text: str, language: str, document: Document) -> Scored:
        """Score the prose of a document in a language. Raises UserError if it has no number where one is promised."""
        scored = Scored()
        for config, labels, score in self._scores:
            if labels and not any(is_of(language, label) for label in labels):
                continue
            value = scored.scores[config.name] = score(text, document)
            if config.drop_below is not None and value < config.drop_below:
                scored.dropping = scored.dropping or Dropping(f"low_{config.name}", value, config.drop_below)
            if config.drop_above is not None and value > config.drop_above:
                reason = f"high_{config.name}"
                scored.dropping = scored.dropping or Dropping(reason, value, config.drop_above, is_shown=False)
        return scored


def _scorer(config: ScoreConfig) -> Callable[[str, Document], float]:
    where = f"scores: {config.name}"
    if config.kind == "field":
        return lambda text, document: _read_number(document, str(config.field), where)
    if config.kind == "linear":
        intercept, weights = _load_linear(str(config.model), where, version_of(Path(str(config.model))))
        return lambda text, document: _score_linear(text, intercept, weights)
    model, label = load_fasttext(str(config.model), where), str(config.label)
    if label not in (known := [name for name, _ in predict(model, "a", number=None)]):
        raise UserError(f"{where}: {config.model} has no label {label!r}; it has {', '.join(sorted(known)[:10])}")
    return lambda text, document: dict(predict(model, text, number=None)).get(label, 0.0)


def _read_text(document: Document, name: str, blocklist: str) -> str:
    value = document.metadata.get(name)
    if isinstance(value, str):
        return value
    has = f"has {value!r} in the field {name!r}" if name in document.metadata else f"has no field {name!r}"
    raise UserError(
        f"blocklists: {blocklist}: document {document.id!r} {has}, and text is wanted; name it in metadata_fields, or "
        "mend it"
    )


def _read_number(document: Document, name: str, where: str) -> float:
    value = document.metadata.get(name)
    number = float("nan")
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        has = f"has {value!r} in the field {name!r}" if name in document.metadata else f"has no field {name!r}"
        raise UserError(
            f"{where}: document {document.id!r} {has}, and a number is wanted; name it in metadata_fields, or mend it"
        )
    return number


def _score_linear(text: str, intercept: float, weights: Mapping[str, float]) -> float:
    words = split_words(text.casefold())
    mean = sum(weights.get(word, 0.0) for word in words) / len(words) if words else 0.0
    return 1 / (1 + math.exp(min(700.0, max(-700.0, -(intercept + mean)))))


@lru_cache(maxsize=64)
def _load_linear(path: str, where: str, version: tuple[int, int]) -> tuple[float, dict[str, float]]:
    try:
        loaded: Any = json.loads(_read(path, where))
        weights = {str(word): float(weight) for word, weight in loaded["weights"].items()}
        intercept = float(loaded["intercept"])
        if not all(map(math.isfinite, (intercept, *weights.values()))):
            raise ValueError("a number is not finite")
        return intercept, weights
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'{where}: {path} is no linear model ({error!r}); write {{"intercept": 0.0, "weights": {{"word": 1.0}}}}'
        ) from None


@lru_cache(maxsize=64)
def _load_digests(name: str, path: str, version: tuple[int, int]) -> frozenset[bytes]:
    digests = set[bytes]()
    for number, line in enumerate(_read(path, f"blocklists: {name}").removeprefix(BOM_UTF8).splitlines(), 1):
        if not (fields := line.split()):
            continue
        own = fields[0]  # sha256sum writes a file's name after it
        if not _DIGEST.fullmatch(own):
            raise UserError(
                f"blocklists: {name}: line {number} of {path} is no SHA-256 in hex, of 64 digits; correct it"
            )
        digests.add(bytes.fromhex(own.decode()))
    return frozenset(digests)


def _read(path: str, where: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{where}: {path} is not there; correct its path") from None
