"""The settings of a recipe about text: its cleaning, what is held out, the tokenizer and the tokens."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from configs.base import MIB, AddedLater, ByContent, Config
from configs.data.filters import FilterConfig
from configs.data.languages import normalize_language
from configs.data.scores import BlocklistConfig, ScoreConfig, check_names
from configs.data.sources import Source
from configs.data.text import IdentifyConfig, PersonalDataConfig
from configs.paths import PathText

Share = Annotated[float, Field(ge=0, le=1)]


def stream_label(pattern: str) -> str:
    """Return the pattern with the language's label. Raises ValueError, with a sentence, if it is no language."""
    source, _, language = pattern.partition("/")
    return pattern if language == "*" else f"{source}/{normalize_language(language)}"


_STREAM = r"^([A-Za-z0-9][A-Za-z0-9._-]*|\*)/([A-Za-z0-9_.@-]+|\*)$"


def _check_stream(pattern: str) -> str:
    if not re.match(_STREAM, pattern):
        raise ValueError("no source and language; write both, such as web/sw, or one of the two, web/* or */sw")
    stream_label(pattern)
    return pattern


StreamPattern = Annotated[str, Field(json_schema_extra={"pattern": _STREAM}), AfterValidator(_check_stream)]
"""A source and a language, `web/sw`, or one of the two: `web/*`, `*/sw`."""


class HeldOutConfig(Config):
    """Documents that are kept out of training, for validation and evaluation.

    A document is held out if the digest of its text, read as a fraction, is below the share of its source and language:
    whatever else the corpus holds, so that a held-out document stays held out when the corpus grows.
    """

    refused: ClassVar[Mapping[str, str]] = {
        "documents_per_language": "documents are held out by `share`, the same however much text there is, as in "
        "`share: 0.05`; how many an evaluation reads is its own `documents_per_stream`",
        "max_fraction": "`share` says what is held out of each source and language",
    }

    share: Share = 0.01
    """Share of the documents of each source and language to hold out. Of a corpus of 10^9 documents a smaller one is
    enough."""

    shares: dict[StreamPattern, Share] = {}
    """Other shares: by source and language, `web/sw`, by source, `web/*`, or by language, `*/sw`. Where several fit,
    the first of these kinds is taken."""

    against: tuple[PathText, ...] = ()
    """Directories of finished `clean` artifacts. What they hold out is dropped here, unless it is held out here, too:
    so models of this corpus can be scored on it."""

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        given = dict[str, str]()
        for key in self.shares:
            other = given.setdefault(stream_label(key), key)
            if other != key:
                raise ValueError(f"shares has {other!r} and {key!r}, which are the same; give one share")
        return self

    def share_of(self, source: str, language: str) -> float:
        """Return the share of a source and a language, which is given by its label."""
        shares = {stream_label(key): share for key, share in self.shares.items()}
        keys = (f"{source}/{language}", f"{source}/*", f"*/{language}")
        return next((shares[key] for key in keys if key in shares), self.share)

    def of_source(self, source: str) -> "HeldOutConfig":
        """Return the settings without the shares of other sources."""
        own = {key: share for key, share in self.shares.items() if key.partition("/")[0] in (source, "*")}
        return self.model_copy(update={"shares": own})


class CleanConfig(Config):
    """How documents are read, normalised, dropped, de-duplicated and held out."""

    sources: tuple[Source, ...] = Field(min_length=1)
    """Where documents come from. Each source becomes an artifact of its own, as if it had a step `STEP.SOURCE`, so that
    one that is added leaves the others as they are. Within a source the first of exact duplicates is kept."""

    min_characters: int = Field(default=20, ge=1)
    """Documents with fewer characters after normalisation are dropped."""

    max_characters: int = Field(default=1_000_000, ge=1)
    """Documents with more characters after normalisation are dropped, and those with four times as many before it."""

    max_unreadable: int = Field(default=0, ge=0)
    """Number of unreadable records (invalid UTF-8, broken JSON, a missing field) that is tolerated in a source; with
    one more, cleaning fails. It fails, too, if most records of a file are unreadable."""

    identify: Annotated[IdentifyConfig | None, AddedLater()] = None
    """How the language of each document is identified. null: it is what the source says."""

    filters: Annotated[FilterConfig | None, AddedLater()] = None
    """Which documents are dropped for what their prose looks like. null: none are."""

    scores: Annotated[tuple[ScoreConfig, ...], AddedLater()] = ()
    """Scores of documents, such as quality and toxicity, and which documents are dropped for them."""

    blocklists: Annotated[tuple[BlocklistConfig, ...], AddedLater()] = ()
    """Lists of hashes of documents that are dropped."""

    personal_data: Annotated[PersonalDataConfig | None, AddedLater()] = None
    """Which personal data is replaced in texts. null: none is."""

    held_out: HeldOutConfig = HeldOutConfig()
    """Which documents are kept out of training."""

    shard_bytes: int = Field(default=256 * MIB, ge=1)
    """Bytes of UTF-8 text that an output file has about, at most."""

    def by_source(self) -> dict[str, "CleanConfig"]:
        """Return for each source, by its name, the settings that it alone is cleaned with."""
        return {
            source.name: self.model_copy(
                update={"sources": (source,), "held_out": self.held_out.of_source(source.name)}
            )
            for source in self.sources
        }

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        repeated = [name for name, n in Counter(source.name for source in self.sources).items() if n > 1]
        if repeated:
            raise ValueError(f"two sources are named {repeated[0]!r}; give each a name of its own")
        check_names(self.scores, self.blocklists)
        names = [source.name for source in self.sources]
        for key in self.held_out.shares:
            if (name := key.partition("/")[0]) not in (*names, "*"):
                raise ValueError(
                    f"held_out.shares names {key!r}, and no source is named {name!r}; there are {', '.join(names)}"
                )
            if key == "*/*":
                raise ValueError("held_out.shares names '*/*', which is all; set held_out.share")
        if self.min_characters > self.max_characters:
            raise ValueError(f"min_characters, {self.min_characters}, is above max_characters, {self.max_characters}")
        return self


class NearDuplicatesConfig(Config):
    """Near copies among documents: of a cluster of them one is kept."""

    similarity: Annotated[float, Field(ge=0.7, le=1)] = 0.8
    """How similar two documents are at least, estimated: the share of their runs of ten letters (four in Chinese and
    Japanese) that both have. What pairs connect is a cluster."""

    keep: Literal["first", "longest"] = "first"
    """Which document of a cluster is kept: the first in the order of the corpus, or the longest. If an earlier corpus
    has one of them, none is."""


class ParagraphsConfig(Config):
    """Paragraphs that several documents have, word for word: the first has them, they are cut out of the others.

    A paragraph is what blank lines part; in a text without blank lines, a line.
    """

    min_characters: Annotated[int, Field(ge=20)] = 80
    """Shorter paragraphs stay."""

    min_documents: Annotated[int, Field(ge=2)] = 3
    """Documents that have a paragraph, of this corpus and earlier ones, before it is cut out of all but the first."""

    min_remaining: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Share of a document's bytes that remain at least; of which less would remain it is left out whole
    (`repeated_paragraphs`)."""


class DecontaminateConfig(Config):
    """Test sets whose items are looked for in documents, in all languages: a document with one is left out."""

    tests: tuple[Source, ...] = Field(min_length=1)
    """Test sets, of any kind that a source can be; `text_field` names the field of an item's text. A set with several
    fields is given several times, under several names."""

    min_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of an item's n-grams that a document has at least that is left out: n-grams of 13 words, or of 26 letters
    in scripts without spaces; of 8 words, or 16 letters, of an item that has fewer; shorter items are counted, and not
    looked for."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        repeated = [name for name, n in Counter(test.name for test in self.tests).items() if n > 1]
        if repeated:
            raise ValueError(f"two test sets are named {repeated[0]!r}; give each a name of its own")
        return self


class DeduplicateConfig(Config):
    """Which documents of a corpus are left out of training: those that an earlier corpus has, near copies of what is
    held out or of each other, and those with items of test sets."""

    held_out_similarity: Annotated[float | None, Field(ge=0.5, le=1)] = 0.8
    """How similar a document is at least to a held-out one, of this corpus or an earlier, that it is left out as its
    near copy: the share of their runs of ten letters (four in Chinese and Japanese) that both have, estimated. null:
    near copies are not looked for."""

    near: Annotated[NearDuplicatesConfig | None, AddedLater()] = None
    """How near copies of other documents, of this corpus and of earlier ones, are left out. null: they stay."""

    paragraphs: Annotated[ParagraphsConfig | None, AddedLater()] = None
    """How paragraphs that several documents have are cut out. null: they stay."""

    decontaminate: Annotated[DecontaminateConfig | None, AddedLater()] = None
    """Which test sets are looked for. null: none."""

    @property
    def keeps_one_of_several(self) -> bool:
        """Whether a document is left out because another stays: then a mask depends on those of earlier corpora.

        What has the same text, or an item of a test set, is left out whatever becomes of its like.
        """
        return self.near is not None or self.paragraphs is not None


class TrainTokenizerConfig(Config):
    """A SentencePiece BPE tokenizer with byte fallback, split digits and no normalisation of its own."""

    vocab_size: int = Field(ge=300, le=1_000_000)
    """Number of pieces, including the 256 byte pieces and the special pieces."""

    sample_bytes: int = Field(default=200 * MIB, ge=1)
    """Bytes of UTF-8 text to train the tokenizer on, over all languages."""

    temperature: float = Field(default=3.0, ge=1)
    """A language's share of the sample is proportional to its share of the corpus to the power 1/temperature: 1 keeps
    the corpus's proportions, larger values favour small languages."""

    character_coverage: float = Field(default=0.9995, ge=0.98, le=1)
    """Share of the sample's characters that get a piece of their own; the rest are written as bytes."""

    seed: int = 0
    """Seed of the choice of the documents in the sample."""


class ImportTokenizerConfig(Config):
    """A tokenizer that another model was trained with: its ids are used as they are."""

    path: Annotated[PathText, Field(min_length=1), ByContent()]
    """A Hugging Face directory, a `tokenizer.json`, or a SentencePiece model (`.model`); relative to the directory the
    command is run in. What the files hold is hashed."""

    end_of_text: str | None = Field(default=None, min_length=1)
    """Piece that ends each document. Left out: the end-of-sequence piece that the files name."""

    begin_of_text: str | None = Field(default=None, min_length=1)
    """Piece that begins each document. Left out: the one that the tokenizer puts before a text, if it does."""


class TokenizeConfig(Config):
    """Token shards in Megatron's .bin/.idx format; each document is followed by the end-of-text piece."""

    validation_bytes: int = Field(default=200_000, ge=0)
    """UTF-8 bytes of held-out text of each source and language that are written as tokens, too, for validation while
    training: documents with the smallest digests, as long as they fit. 0: none."""
