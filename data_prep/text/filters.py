"""Filters give the reason to drop a document for what its prose looks like, or None; and how bounds are learned."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import regex

from cluster.host.files import version_of
from configs.data.filters import ALL_LANGUAGES, Bounds, FilterConfig, LanguageFilter, LearnConfig, Limits, Thresholds
from configs.load import load
from data_prep.text.statistics import STATISTICS, Prose

_WORD = regex.compile(r"[\p{L}\p{M}]+")
_WORDS_OF_A_SAMPLE = 2000
"""Most frequent words of a language that are kept while they are counted."""


@dataclass(frozen=True, slots=True)
class Dropping:
    """Why a filter drops a document."""

    reason: str
    """`low_NAME` or `high_NAME`."""

    value: float
    bound: float
    is_shown: bool = True
    """Whether the document may be among the samples."""


class Filters:
    """The filters of a source: for each language its bounds and its stop words."""

    def __init__(self, config: FilterConfig, learned: Thresholds) -> None:
        self._config, self._learned = config, learned.by_label()
        self._of: dict[str, tuple[list[tuple[str, Bounds]], frozenset[str]]] = {}

    @cached_property
    def _file(self) -> Mapping[str, LanguageFilter]:
        return load_thresholds(self._config).by_label()

    def applied(self, language: str) -> LanguageFilter:
        """Return what is applied to a language, which is given by its label."""
        limits = self._config.limits_of(language, file=self._file, learned=self._learned)
        layers = [(self._file, language), (self._learned, language), (self._file, ALL_LANGUAGES)]
        stop_words = next((own[key].stop_words for own, key in layers if key in own and own[key].stop_words), ())
        return LanguageFilter(limits=Limits(**limits), stop_words=stop_words)

    def find_reason(self, text: str, language: str) -> Dropping | None:
        """Return why the prose of a document, with marks for its spans, is dropped, by the first filter that does."""
        if language not in self._of:
            own = self.applied(language)
            limits = [(name, bounds) for name, bounds in own.limits.given().items() if bounds != Bounds()]
            self._of[language] = limits, frozenset(map(str.casefold, own.stop_words))
        limits, stop_words = self._of[language]
        prose = Prose(text, language=language, stop_words=stop_words)
        for name, bounds in limits:
            value = STATISTICS[name](prose)
            if value is None:
                continue
            if bounds.min is not None and value < bounds.min:
                return Dropping(f"low_{name}", value, bounds.min)
            if bounds.max is not None and value > bounds.max:
                return Dropping(f"high_{name}", value, bounds.max)
        return None


def load_thresholds(config: FilterConfig) -> Thresholds:
    """Return what the file of thresholds says; nothing if there is none. Raises ConfigError if it is wrong."""
    return _load_file(Path(config.file), version_of(Path(config.file))) if config.file else Thresholds()


@lru_cache(maxsize=4)
def _load_file(path: Path, version: tuple[int, int]) -> Thresholds:
    """Read a file once in a process: of 200 languages that takes more than a second, and each part of a source asks."""
    return load(path, Thresholds).config


@dataclass
class Sample:
    """What was counted of documents of one language, to learn bounds from."""

    num_documents: int = 0
    values: defaultdict[str, Counter[float]] = field(default_factory=lambda: defaultdict(Counter))
    """By statistic: its value, of three digits -> number of documents."""

    words: Counter[str] = field(default_factory=Counter)
    """Word in small letters -> number of documents that have it."""

    def add(self, text: str, language: str, config: LearnConfig) -> None:
        """Count a document's prose, with marks for its spans."""
        prose = Prose(text, language=language)
        self.num_documents += 1
        for name in {*config.low, *config.high}:
            if (value := STATISTICS[name](prose)) is not None:
                self.values[name][float(f"{value:.3g}")] += 1
        if config.num_stop_words and prose.has_words:
            self.words.update({word.casefold() for word in prose.words if _WORD.fullmatch(word)})

    def merge(self, other: "Sample") -> None:
        """Count what another sample has."""
        self.num_documents += other.num_documents
        for name, values in other.values.items():
            self.values[name].update(values)
        self.words.update(other.words)
        self.trim()

    def trim(self) -> None:
        """Keep the most frequent words alone."""
        if len(self.words) > _WORDS_OF_A_SAMPLE:
            self.words = Counter(dict(_most_frequent(self.words, _WORDS_OF_A_SAMPLE)))


def _most_frequent(words: Counter[str], number: int) -> list[tuple[str, int]]:
    return sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[:number]


def learn_thresholds(samples: Mapping[str, Sample], config: LearnConfig) -> Thresholds:
    """Return the bounds and stop words of each language that has documents enough."""
    return Thresholds(
        languages={
            language: _learn(sample, config)
            for language, sample in sorted(samples.items())
            if sample.num_documents >= config.min_documents
        }
    )


def _learn(sample: Sample, config: LearnConfig) -> LanguageFilter:
    limits: dict[str, Bounds] = {}
    for name, values in sample.values.items():
        low = _find_quantile(values, config.low[name]) if name in config.low else None
        high = _find_quantile(values, config.high[name]) if name in config.high else None
        limits[name] = Bounds(min=low, max=high)
    words = [word for word, _ in _most_frequent(sample.words, config.num_stop_words)]
    return LanguageFilter(limits=Limits(**limits), stop_words=tuple(words))


def _find_quantile(values: Counter[float], quantile: float) -> float:
    """Return the least value that at least this share of the documents is at or below (type 1 of Hyndman and Fan)."""
    wanted, seen = quantile * values.total(), 0
    for value in sorted(values):
        seen += values[value]
        if seen >= wanted:
            return value
    raise AssertionError("a share of all is more than all")
