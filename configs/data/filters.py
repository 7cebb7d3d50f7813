"""The settings of filters: bounds of statistics of a text's prose, for all languages, by language, or learned."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from configs.base import ByContent, Config
from configs.data.languages import normalize_language
from configs.data.sources import Language
from configs.paths import PathText

Quantile = Annotated[float, Field(gt=0, lt=1)]


class Bounds(Config):
    """What a statistic is at least and at most; a document beyond is dropped (`low_NAME`, `high_NAME`)."""

    min: float | None = None
    """null: no least value."""

    max: float | None = None
    """null: no largest value."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min, {self.min:g}, is above max, {self.max:g}")
        return self


class Limits(Config):
    """Bounds of the statistics of a text's prose: the text without its mathematics, code and tables.

    A word is what spaces part. In scripts without spaces (Han, kana, Thai, Lao, Khmer, Burmese, Tibetan) what counts
    words bounds nothing, and a run of n words is one of 2 n letters.
    """

    num_words: Bounds | None = None
    """Words."""

    mean_word_length: Bounds | None = None
    """Characters a word."""

    alphabetic_word_share: Bounds | None = None
    """Share of words with a letter."""

    symbol_word_ratio: Bounds | None = None
    """Number signs and ellipses a word."""

    num_stop_words: Bounds | None = None
    """Words that are among the stop words of the language: those that are learned, or that the file has."""

    letter_share: Bounds | None = None
    """Share of letters among the characters that are no spaces."""

    script_share: Bounds | None = None
    """Share of letters in a script that the document's language is written in."""

    bullet_line_share: Bounds | None = None
    """Share of lines that begin with a bullet."""

    ellipsis_line_share: Bounds | None = None
    """Share of lines that end with an ellipsis."""

    short_line_share: Bounds | None = None
    """Share of lines of at most 30 characters."""

    punctuated_line_share: Bounds | None = None
    """Share of lines that end like a sentence, in any script."""

    line_word_ratio: Bounds | None = None
    """Line ends a word."""

    num_braces: Bounds | None = None
    """Opening braces: a page's code."""

    num_placeholders: Bounds | None = None
    """Times that "lorem ipsum" is there."""

    duplicate_line_share: Bounds | None = None
    """Share of lines that were there before."""

    duplicate_line_characters: Bounds | None = None
    """Share of characters in such lines."""

    duplicate_paragraph_share: Bounds | None = None
    """Share of paragraphs that were there before."""

    duplicate_paragraph_characters: Bounds | None = None
    """Share of characters in such paragraphs."""

    top_2_gram: Bounds | None = None
    """Share of characters in the most frequent run of two words."""

    top_3_gram: Bounds | None = None
    """The same of three words."""

    top_4_gram: Bounds | None = None
    """The same of four words."""

    duplicate_5_grams: Bounds | None = None
    """Share of characters in runs of five words that were there before."""

    duplicate_6_grams: Bounds | None = None
    """The same of six words."""

    duplicate_7_grams: Bounds | None = None
    """The same of seven words."""

    duplicate_8_grams: Bounds | None = None
    """The same of eight words."""

    duplicate_9_grams: Bounds | None = None
    """The same of nine words."""

    duplicate_10_grams: Bounds | None = None
    """The same of ten words."""

    def given(self) -> dict[str, Bounds]:
        """Return the bounds that are given, by the name of their statistic."""
        return {name: bounds for name in type(self).model_fields if (bounds := getattr(self, name)) is not None}


ALL_LANGUAGES = "*"


def _check_statistic(name: str) -> str:
    if name not in Limits.model_fields:
        nearest = get_close_matches(name, Limits.model_fields, n=1, cutoff=0)[0]
        raise ValueError(f"no statistic is named {name!r}; did you mean {nearest!r}?")
    return name


StatisticName = Annotated[str, AfterValidator(_check_statistic)]
"""The name of a statistic, as in Limits."""

_GOPHER_REPETITION = {
    "duplicate_line_share": 0.30,
    "duplicate_line_characters": 0.20,
    "duplicate_paragraph_share": 0.30,
    "duplicate_paragraph_characters": 0.20,
    "top_2_gram": 0.20,
    "top_3_gram": 0.18,
    "top_4_gram": 0.16,
    "duplicate_5_grams": 0.15,
    "duplicate_6_grams": 0.14,
    "duplicate_7_grams": 0.13,
    "duplicate_8_grams": 0.12,
    "duplicate_9_grams": 0.11,
    "duplicate_10_grams": 0.10,
}

PRESETS: dict[str, dict[str, Bounds]] = {
    "gopher_quality": {
        "num_words": Bounds(min=50, max=100_000),
        "mean_word_length": Bounds(min=3, max=10),
        "symbol_word_ratio": Bounds(max=0.1),
        "bullet_line_share": Bounds(max=0.9),
        "ellipsis_line_share": Bounds(max=0.3),
        "alphabetic_word_share": Bounds(min=0.8),
        "num_stop_words": Bounds(min=2),
    },
    "gopher_repetition": {name: Bounds(max=most) for name, most in _GOPHER_REPETITION.items()},
    "c4": {"num_braces": Bounds(max=0), "num_placeholders": Bounds(max=0)},
    "fineweb": {
        "punctuated_line_share": Bounds(min=0.12),
        "short_line_share": Bounds(max=0.67),
        "duplicate_line_characters": Bounds(max=0.1),
        "line_word_ratio": Bounds(max=0.3),
    },
}
"""Published rules (data_prep/text/statistics.py names the papers), which were made for English."""


class LearnConfig(Config):
    """Bounds by language that are quantiles of the source's own documents, from a first reading of a part of it."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of a source that is read for it, spread over all of it; parts of 4 MB at least."""

    min_documents: Annotated[int, Field(ge=1)] = 500
    """Documents of a language in that share that it takes to learn from: with fewer the other bounds hold, and the
    report says so."""

    low: dict[StatisticName, Quantile] = {}
    """Statistics of which a least value is learned, each with its quantile: 0.05 drops the lowest twentieth."""

    high: dict[StatisticName, Quantile] = {}
    """Statistics of which a largest value is learned, each with its quantile: 0.95 drops the highest twentieth."""

    num_stop_words: Annotated[int, Field(ge=0, le=100)] = 10
    """So many words that most documents of a language have are its stop words. 0: none are learned."""

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for name, low in self.low.items():
            if low >= self.high.get(name, 1.0):
                raise ValueError(f"low.{name}, {low:g}, is not below high.{name}, {self.high[name]:g}")
        return self


class LanguageFilter(Config):
    """What a file of thresholds says of one language, or of all, `*`."""

    limits: Limits = Limits()
    """Bounds, which replace those of other places, one by one."""

    stop_words: tuple[str, ...] = ()
    """Its stop words, in capitals or small letters."""


def _check_language(tag: str) -> str:
    if tag != ALL_LANGUAGES:
        normalize_language(tag)
    return tag


class Thresholds(Config):
    """A file of thresholds: what is applied to each language."""

    languages: dict[Annotated[str, AfterValidator(_check_language)], LanguageFilter] = {}
    """By language; `*` is all languages for which nothing else is said."""

    @model_validator(mode="after")
    def _names_languages_once(self) -> Self:
        if len(self.by_label()) < len(self.languages):
            raise ValueError("languages names a language twice; leave one")
        return self

    def by_label(self) -> dict[str, LanguageFilter]:
        """Return what is said by the labels of the languages, and `*`."""
        return {tag if tag == ALL_LANGUAGES else normalize_language(tag): own for tag, own in self.languages.items()}


class FilterConfig(Config):
    """Which documents are dropped for what their prose looks like.

    Of each statistic one pair of bounds holds for a language: that of `languages`, or else of the file for this
    language, or what was learned, or `limits`, or what the file says of all languages, or the presets'. A pair that is
    given as {} drops nothing.
    """

    presets: tuple[Literal["gopher_quality", "gopher_repetition", "c4", "fineweb"], ...] = ()
    """Published rules; where two bound one statistic, the later one holds."""

    limits: Limits = Limits()
    """Bounds for all languages."""

    languages: dict[Language, Limits] = {}
    """Bounds by language."""

    file: Annotated[PathText | None, Field(min_length=1), ByContent()] = None
    """A YAML file: `languages: {sw: {limits: ..., stop_words: [...]}}`; `*` is all languages. Each clean corpus that is
    filtered has such a file of what was applied, `thresholds.yaml`, to be edited. Relative to the directory the command
    is run in; what it holds is hashed."""

    learn: LearnConfig | None = None
    """Bounds and stop words that are learned from the source. null: none are."""

    @model_validator(mode="after")
    def _drops_something(self) -> Self:
        labels = [normalize_language(tag) for tag in self.languages]
        if len(set(labels)) < len(labels):
            raise ValueError("languages names a language twice; leave one")
        if not self.model_fields_set:
            raise ValueError("filters says nothing; give presets, limits, a file or learn, or leave it out")
        return self

    def limits_of(
        self, language: str, *, file: Mapping[str, LanguageFilter], learned: Mapping[str, LanguageFilter]
    ) -> dict[str, Bounds]:
        """Return the bounds of a language, which is given by its label, in the order of their statistics.

        Those that are switched off are among them, as {}. `file` and `learned` are by label.
        """
        by_tag = {normalize_language(tag): limits for tag, limits in self.languages.items()}
        layers: list[Mapping[str, Bounds]] = [PRESETS[name] for name in self.presets]
        layers += [file[ALL_LANGUAGES].limits.given()] if ALL_LANGUAGES in file else []
        layers += [self.limits.given()]
        layers += [own[language].limits.given() for own in (learned, file) if language in own]
        layers += [by_tag[language].given()] if language in by_tag else []
        merged = {name: bounds for layer in layers for name, bounds in layer.items()}
        return {name: merged[name] for name in Limits.model_fields if name in merged}
