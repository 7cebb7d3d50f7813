"""How long cleaning, tokenising and scoring will take, before they are begun."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from pydantic import JsonValue, ValidationError

from cluster.placement import Placement
from configs.base import Config
from configs.data.sources import Source
from configs.data.stages import CleanConfig, DeduplicateConfig
from configs.evaluation import CONTINUATION, EvaluateConfig
from data_prep.cleaning.stage import part_bytes
from data_prep.manifests import CleanCorpus, TokenizedCorpus
from data_prep.sources.table import READERS
from eval.parallel import parallel_files
from eval.scoring import CONTINUATIONS, ITEM_BYTES
from eval.tasks.continuation import MAX_BYTES, NUM_CHOICES
from pipeline.estimate.basis import Range
from pipeline.estimate.speed import Speed
from pipeline.graph.why import finished_records
from pipeline.store.artifact import Record

SECONDS_PER_MEGABYTE = {
    "clean": {"": 0.035, "identify": 0.066, "filters": 0.11, "personal_data": 0.12, "scores": 0.099},
    "deduplicate": {"": 0.043, "near": 0.0075, "paragraphs": 0.033, "decontaminate": 0.17},
    "tokenize": {"": 0.098},
}
"""Seconds of a core for a megabyte of text, by stage, and what each part of a config adds, for each score in `scores`,
as benchmarks/stage_speed.py measured them (benchmarks/RESULTS.md)."""

_TIMED = (*SECONDS_PER_MEGABYTE["clean"], "blocklists")
"""Keys of `clean` that its speed hangs on."""

LEAST_SECONDS = 10.0
"""A stage that took less says nothing of its speed: most of it was the start of workers."""

STREAMS = (".gz", ".zst", ".zstd", ".xz", ".bz2")
"""Suffixes of files that are read from their beginning."""

COMPRESSED = (*STREAMS, ".parquet")
COMPRESSION = 3.0
"""Bytes of text in a byte of a compressed file: an assumption."""

BYTES_PER_TOKEN = 4.0
"""Bytes of text in a token where the corpus is not tokenised: an assumption."""


@dataclass(frozen=True)
class StageTime:
    """How long a stage will take."""

    seconds: Range | None
    source: str
    """What it was reckoned from, or why it is not known."""


@dataclass(frozen=True)
class Work:
    """Text to go through, and the items of parallel work that it is cut into."""

    num_bytes: float
    num_items: int
    largest: float
    """Bytes of the largest item, which no number of cores makes faster."""

    unknown: tuple[str, ...] = ()
    """Sources whose size is not known before they are read."""


def clean_work(config: CleanConfig) -> Work:
    """Return the text in the files of the sources. Raises UserError if one is missing."""
    found = {source.name: _file_sizes(source) for source in config.sources}
    sizes = [size for own in found.values() for size in own]
    total = sum(size for size, _ in sizes)
    part = float(part_bytes(int(total)))
    largest = max((size if is_stream else min(size, part) for size, is_stream in sizes), default=0.0)
    return Work(total, max(1, ceil(total / part)), largest, tuple(name for name, own in found.items() if not own))


def tokenize_work(corpus: CleanCorpus | None, config: CleanConfig) -> Work:
    """Return the text of a corpus, which is at most that of its sources as long as it is not made."""
    if corpus is None:
        raw = clean_work(config)
        shard = float(config.shard_bytes)
        return Work(
            raw.num_bytes, max(raw.num_items, ceil(raw.num_bytes / shard)), min(raw.largest, shard), raw.unknown
        )
    total = float(sum(count.kept_bytes for count in corpus.counts))
    return Work(total, len(corpus.shards), total / max(1, len(corpus.shards)))


def mask_work(corpus: Work, earlier: Sequence[Work], config: DeduplicateConfig) -> Work:
    """Return the text that a mask's stage reads: its corpus, and those before it, where what they keep is looked at."""
    if not config.keeps_one_of_several:
        return corpus
    works = [corpus, *earlier]
    return Work(
        sum(work.num_bytes for work in works),
        sum(work.num_items for work in works),
        max(work.largest for work in works),
        tuple(dict.fromkeys(name for work in works for name in work.unknown)),
    )


def _parts_of(stage: str, config: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Return the parts that a config has of those that take time, each as often as it is there."""
    found: list[str] = []
    for part in SECONDS_PER_MEGABYTE[stage]:
        value = config.get(part)
        found += [part] * (len(value) if isinstance(value, list) else value is not None)
    return tuple(found)


def stage_time(stage: str, config: Config, work: Work, placement: Placement, store: Path | None) -> StageTime:
    """Return how long it takes to clean, mask or tokenise text: as fast as was measured, or as it was in the store.

    That is asked of the last artifact that was cleaned with the same parts, or tokenised, and took long enough to tell.
    """
    if not work.num_bytes:
        return StageTime(None, f"not known: the size of {', '.join(work.unknown) or 'its text'} is not known from here")
    given = config.model_dump(mode="json")
    parts = _parts_of(stage, given)
    rate, source = _remembered(stage, given, store) if store else (None, "")
    assumed = 1e6 / sum(SECONDS_PER_MEGABYTE[stage][part] for part in ("", *parts))
    ends = [rate] if rate else [assumed * factor for factor in (2.0, 0.5)]
    busy = min(placement.num_tasks, work.num_items)
    took = [max(work.num_bytes / (rate * busy), work.largest / rate) for rate in ends]
    speed = source or f"assumed: {assumed / 1e6:.2g} MB/s a core, half of that to twice"
    left_out = f", without {', '.join(work.unknown)}, whose size is not known" if work.unknown else ""
    return StageTime(Range(took[0], took[-1]), f"{_megabytes(work.num_bytes)} of text{left_out}; {speed}")


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.2g} MB"


def rate_of(record: Record) -> float | None:
    """Return the bytes of text a second that a finished stage went through with each of its cores.

    None where the record does not say how many there were, is of another version, or the work took several attempts.
    """
    slots = record.placement.get("num_tasks")
    if not isinstance(slots, int) or record.attempts > 1 or record.seconds <= 0:
        return None
    try:
        num_bytes, num_items = _text_of(record.stage, record.manifest)
    except ValidationError:  # of another version
        return None
    return num_bytes / record.seconds / max(1, min(slots, num_items)) or None


def evaluate_time(
    config: EvaluateConfig,
    corpora: Sequence[CleanCorpus],
    tokens: TokenizedCorpus | None,
    *,
    speed: Speed,
    placement: Placement,
) -> StageTime:
    """Return how long it takes to score a model that trains at `speed` on this pool: a third of a training's FLOPs.

    Each worker scores whole items of work (eval/stage.py); loading the model is not in it.
    """
    if speed.tokens_per_second is None:
        return StageTime(None, "not known: the speed of the model is not")
    bytes_per_token = _bytes_per_token(tokens)
    num_tokens = _scored_bytes(config, corpora) / bytes_per_token
    workers = placement.num_ranks if placement.device != "cpu" else placement.num_tasks
    cores = 1.0 if placement.device != "cpu" else placement.cpus_per_task / placement.cpus_per_rank
    busy = max(1, min(workers, ceil(num_tokens * bytes_per_token / ITEM_BYTES))) * cores / placement.num_ranks
    rates = (3 * busy * speed.tokens_per_second.high, 3 * busy * speed.tokens_per_second.low)
    took = Range(num_tokens / rates[0], num_tokens / rates[1])
    others = [name for name in (*config.tasks, *config.suites) if name != CONTINUATION]
    left_out = f", without {', '.join(others)}, whose size is not known" if others else ""
    what = f"{num_tokens:,.0f} tokens{left_out}, three times as fast as they are trained on; {speed.source}"
    return StageTime(took, what)


def _file_sizes(source: Source) -> list[tuple[float, bool]]:
    """Return the bytes of text of each file of a source, and whether one worker reads it from beginning to end.

    None where its identity is no files' (a package, the Hub).
    """
    sizes: list[tuple[float, bool]] = []

    def add(path: Path) -> str:
        suffix = path.suffix.lower()
        sizes.append((path.stat().st_size * (COMPRESSION if suffix in COMPRESSED else 1.0), suffix in STREAMS))
        return ""

    READERS[source.kind].identity(source, add)
    return sizes


def _remembered(stage: str, config: Mapping[str, JsonValue], store: Path) -> tuple[float | None, str]:
    if stage == "deduplicate":  # a mask does not say how much was read for it
        return None, ""
    parts = {key: value for key, value in config.items() if key in _TIMED}
    for record in finished_records(stage, store):
        same = {key: value for key, value in record.config.items() if key in _TIMED} == parts
        if same and record.seconds >= LEAST_SECONDS and (rate := rate_of(record)):
            where = f"{record.stage}-{record.fingerprint[:12]}"
            return rate, f"{rate / 1e6:,.2g} MB/s a core, measured in {where}"
    return None, ""


def _text_of(stage: str, manifest: Mapping[str, JsonValue]) -> tuple[float, int]:
    """Return the bytes of text that a stage went through, and in how many items."""
    if stage == "clean":
        corpus = CleanCorpus.model_validate(manifest)
        num_bytes = sum(_read_bytes(corpus))
        return num_bytes, max(1, ceil(num_bytes / part_bytes(int(num_bytes))))
    tokens = TokenizedCorpus.model_validate(manifest)
    return float(sum(s.num_bytes for shard in tokens.shards for s in shard.segments)), len(tokens.shards)


def _read_bytes(corpus: CleanCorpus) -> Iterator[float]:
    """Yield the bytes of the documents that were read, each as long as those that were kept are on average."""
    for count in corpus.counts:
        if count.num_kept:
            yield count.kept_bytes * count.num_read / count.num_kept


def _bytes_per_token(tokens: TokenizedCorpus | None) -> float:
    if tokens is None:
        return BYTES_PER_TOKEN
    return sum(s.num_bytes for shard in tokens.shards for s in shard.segments) / tokens.num_tokens


def _scored_bytes(config: EvaluateConfig, corpora: Sequence[CleanCorpus]) -> float:
    """Return the bytes of the texts that are scored, those of the task that is made of them included."""
    total, by_language = 0.0, dict[str, int]()
    for count in (count for corpus in corpora for count in corpus.counts):
        held = min(count.num_held_out, config.documents_per_stream or count.num_held_out)
        total += held * count.kept_bytes / max(1, count.num_kept)
        by_language[count.language] = by_language.get(count.language, 0) + held
    if CONTINUATION in config.tasks:
        most = config.questions_per_task or CONTINUATIONS
        total += sum(min(most, held) for held in by_language.values()) * NUM_CHOICES * 3 * MAX_BYTES
    if config.parallel is not None:
        wanted = config.languages or by_language
        files = parallel_files(Path(config.parallel))
        total += sum(path.stat().st_size for label, path in files.items() if label in wanted)
    return total
