"""What is done with each document: normalised, its language identified, filtered, scored, personal data replaced.

A document that is dropped has a reason; the first that drops it counts.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from configs.data.filters import Thresholds
from configs.data.languages import is_undetermined, iso_label, macrolanguage
from configs.data.sources import Source
from configs.data.stages import CleanConfig
from configs.data.text import IdentifyConfig
from data_prep.cleaning.normalize import normalize
from data_prep.sources.document import Document
from data_prep.text.filters import Dropping, Filters
from data_prep.text.language_id import Identified, make_identifier
from data_prep.text.personal_data import replace_personal_data
from data_prep.text.scores import Scorer
from data_prep.text.spans import NO_SPANS, Spans, find_spans

RAW_FACTOR = 4
"""A text that is so many times as long as is allowed is dropped before it is normalised."""


@dataclass
class Treated:
    """A document while it is treated, and what was counted of it."""

    text: str
    language: str
    """Its label: what the source says, or what was found."""

    reason: str | None = None
    """Why it is dropped; None if it is kept."""

    dropping: Dropping | None = None
    """Which filter dropped it, if one did."""

    changes: tuple[str, ...] = ()
    """How its text was normalised."""

    identified: Identified | None = None
    scores: dict[str, float] = field(default_factory=dict)
    """By name (data_prep/text/scores.py)."""

    spans: Spans = NO_SPANS
    found: Counter[str] = field(default_factory=Counter)
    """What was found in it, by kind: see CorpusCount.found."""

    @property
    def metadata(self) -> Mapping[str, JsonValue]:
        """What is kept with the document of what was found."""
        kept: dict[str, JsonValue] = {}
        if found := self.identified:
            score = round(found.score, 4)
            kept["identified"] = {"label": iso_label(found.label), "score": score, "backend": found.backend}
        if self.scores:
            kept["scores"] = {name: round(score, 4) for name, score in self.scores.items()}
        return kept


class Treatment:
    """Treats the documents of a source as the config of a `clean` step says."""

    def __init__(self, source: Source, config: CleanConfig, learned: Thresholds) -> None:
        """`learned` is what the filters have learned, if they learn."""
        self._source, self._config = source, config
        self._identify = make_identifier(config.identify) if config.identify else None
        self._filters = Filters(config.filters, learned) if config.filters else None
        self._scorer = Scorer(config.scores, config.blocklists) if config.scores or config.blocklists else None

    def treat(self, document: Document) -> Treated:
        """Return what becomes of a document."""
        treated = self.read(document)
        if treated.reason is None and self._scorer:
            treated.reason = self._scorer.find_blocked(treated.text, document)
        if treated.reason is None and (self._filters or self._scorer):
            self._judge(treated, document)
        if treated.reason is None:
            self._count_spans(treated)
            self._replace_personal_data(treated)
        return treated

    def read(self, document: Document) -> Treated:
        """Return a document as the filters see it: normalised, within the bounds, its language known."""
        config = self._config
        if len(document.text) > RAW_FACTOR * config.max_characters:
            return Treated("", document.language, "too_long")
        text, changes = normalize(document.text, fix_encoding=self._source.fix_encoding)
        treated = Treated(text, document.language, _check_bounds(text, config), changes=changes)
        if treated.reason is None and (config.identify or config.filters or config.scores or config.personal_data):
            treated.spans = find_spans(text)
        if treated.reason is None and self._identify and config.identify:
            prose = treated.spans.prose(text)
            treated.identified = self._identify(prose if prose.strip() else text)
            treated.language, treated.reason = _decide(treated.identified, document.language, config.identify)
        return treated

    def _judge(self, treated: Treated, document: Document) -> None:
        """Drop a document for what its prose looks like, or for its scores."""
        if self._filters:
            treated.dropping = self._filters.find_reason(treated.spans.marked(treated.text), treated.language)
        if treated.dropping is None and self._scorer:
            scored = self._scorer.score(treated.spans.prose(treated.text), treated.language, document)
            treated.scores, treated.dropping = scored.scores, scored.dropping
        treated.reason = treated.dropping.reason if treated.dropping else None

    def _count_spans(self, treated: Treated) -> None:
        treated.found.update({span.kind for span in treated.spans.spans})
        treated.found["math_unbalanced"] += treated.spans.num_unbalanced > 0

    def _replace_personal_data(self, treated: Treated) -> None:
        if self._config.personal_data:
            kinds = self._config.personal_data.replace
            treated.text, counts = replace_personal_data(treated.text, treated.spans, kinds, language=treated.language)
            treated.found.update({f"{kind}-pii": number for kind, number in counts.items()})


def load_learned(path: Path | None) -> Thresholds:
    """Return what filters have learned, from its file; nothing if there is none."""
    return Thresholds.model_validate_json(path.read_bytes()) if path else Thresholds()


def _decide(found: Identified, declared: str, config: IdentifyConfig) -> tuple[str, str | None]:
    """Return the label of a document and why it is dropped, for what was found and what its source says."""
    is_declared = not is_undetermined(declared)
    agrees = is_declared and (is_undetermined(found.label) or macrolanguage(found.label) == macrolanguage(declared))
    heard = declared if agrees else found.label
    label = declared if is_declared and config.on_mismatch != "relabel" else heard
    if found.score < config.least_score(found.label):
        return label, "language_unsure"
    if not config.wants(heard):
        return label, "other_language"
    if is_declared and not agrees and config.on_mismatch == "drop":
        return label, "language_mismatch"
    return label, None


def _check_bounds(text: str, config: CleanConfig) -> str | None:
    """Return the reason to drop a text, or None."""
    if not text:
        return "empty"
    if len(text) < config.min_characters:
        return "too_short"
    return "too_long" if len(text) > config.max_characters else None
