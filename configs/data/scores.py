"""The settings of scores of texts, by models of the user's or brought by sources, and of lists of what is blocked."""

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.base import ByContent, Config, Name
from configs.data.languages import normalize_language
from configs.data.sources import Language
from configs.paths import PathText


class ScoreConfig(Config):
    """A score of each document, and which documents are dropped for it: quality, toxicity, or what else is scored.

    A document beyond is dropped (`low_NAME`, `high_NAME`). The score is kept in the document's metadata, `scores`.
    """

    name: Name
    """Name of the score."""

    kind: Literal["field", "fasttext", "linear"]
    """Where it comes from. field: the documents have it, in the metadata field `field`. fasttext: the probability of
    `label` by the fastText model in the file `model`. linear: a logistic model of words in the JSON file `model`,
    `{"intercept": B, "weights": {WORD: W, ...}}`: 1 / (1 + exp(-(B + the mean of W over the text's words))), a word in
    small letters, a letter of scripts without spaces."""

    field: str | None = Field(default=None, min_length=1)
    """Metadata field of a score that documents have; `metadata_fields` of the source must name it."""

    model: Annotated[PathText | None, Field(min_length=1), ByContent()] = None
    """File of the model; relative to the directory the command is run in. What it holds is hashed."""

    label: str | None = Field(default=None, min_length=1)
    """Label of a fastText model whose probability is the score, such as `__label__hq`."""

    languages: tuple[Language, ...] = ()
    """Languages whose documents are scored. Left out: all are. A score may be given once for each language, with a
    model of its own."""

    drop_below: float | None = None
    """Documents with a lower score are dropped. null: none are."""

    drop_above: float | None = None
    """Documents with a higher score are dropped. null: none are."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        wanted = {"field": ("field",), "fasttext": ("model", "label"), "linear": ("model",)}[self.kind]
        for key in ("field", "model", "label"):
            is_given = getattr(self, key) is not None
            if is_given != (key in wanted):
                raise ValueError(
                    f"kind {self.kind} takes {' and '.join(wanted)}; {'leave out' if is_given else 'set'} {key}"
                )
        if self.drop_below is not None and self.drop_above is not None and self.drop_below > self.drop_above:
            raise ValueError(f"drop_below, {self.drop_below:g}, is above drop_above, {self.drop_above:g}")
        return self

    def labels(self) -> frozenset[str]:
        """Return the labels of the languages that it is of; empty if it is of all."""
        return frozenset(map(normalize_language, self.languages))


class BlocklistConfig(Config):
    """Hashes of what is blocked: a document with one of them is dropped (`blocked_NAME`); which is not shown."""

    name: Name
    """Name of the list."""

    path: Annotated[PathText, Field(min_length=1), ByContent()]
    """A file with a SHA-256 in hex on each line, relative to the directory the command is run in. What it holds is
    hashed."""

    field: str | None = Field(default=None, min_length=1)
    """Metadata field whose text, in UTF-8, is hashed, such as `url`. Left out: the document's normalised text is."""


def check_names(scores: tuple[ScoreConfig, ...], blocklists: tuple[BlocklistConfig, ...]) -> None:
    """Raise ValueError if two scores of a language, or two lists, have one name."""
    seen = set[tuple[str, str]]()
    for key in _keys(scores, blocklists):
        if key in seen or (key[0], "*") in seen or (key[1] == "*" and any(key[0] == name for name, _ in seen)):
            raise ValueError(
                f"two have the name {key[0]!r}{'' if key[1] == '*' else f' for {key[1]}'}; give each its own"
            )
        seen.add(key)


def _keys(scores: tuple[ScoreConfig, ...], blocklists: tuple[BlocklistConfig, ...]) -> Iterator[tuple[str, str]]:
    for score in scores:
        yield from ((f"score {score.name}", label) for label in sorted(score.labels()) or ["*"])
    yield from ((f"list {one.name}", "*") for one in blocklists)
