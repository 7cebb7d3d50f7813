"""The stage that turns sources into clean documents.

Workers read parts of the sources (scan.py), decide on duplicates by ranges of digests (duplicates.py) and write shards
(shards.py). What is known of documents stays in files: the driver keeps a few numbers for each piece and language.
"""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from pydantic import JsonValue

from cluster.executor import Executor
from cluster.host.files import write_text
from configs.base import MIB, UserError
from configs.data.filters import FilterConfig, Thresholds
from configs.data.sources import Source
from configs.data.stages import CleanConfig
from configs.load import dump_yaml
from data_prep.cleaning.duplicates import Ints, Partition, Pieces, choose_num_partitions, count_kept, find_duplicates
from data_prep.cleaning.held_out import find_held_out_digests, observe_held_out
from data_prep.cleaning.learn import learn
from data_prep.cleaning.samples import write_samples
from data_prep.cleaning.scan import Part, scan_part
from data_prep.cleaning.shards import DIRECTORIES, ShardItem, plan_shards, write_shard
from data_prep.cleaning.tally import Tally
from data_prep.cleaning.treatment import load_learned
from data_prep.manifests import CleanCorpus, CorpusCount
from data_prep.sources.document import Digest, LineCut, Span, settle
from data_prep.sources.table import READERS
from data_prep.text.filters import Filters, load_thresholds
from data_prep.text.scores import Scorer

MOST_PART_BYTES, LEAST_PART_BYTES = 64 * MIB, 4 * MIB
FILES, SAMPLES_FILE, THRESHOLDS_FILE = "files.jsonl", "dropped.jsonl", "thresholds.yaml"
"""What became of the records of each file that was read; samples of what filters dropped; what they applied."""

LITTLE_BYTES = 256 * MIB
"""Lines of so much are counted here, which takes less time than to start workers."""

FEW_FILES = 64
"""So many are looked into here: a file behind NFS or a URL may take tens of milliseconds. A dataset never is."""

PARTS = 64
"""A corpus has at least so many parts, unless they were smaller than LEAST_PART_BYTES."""


@dataclass(frozen=True)
class _SplitItem:
    """One item of work: cut a file, or a dataset, into spans."""

    source: Source
    span: Span
    num_bytes: int


@dataclass(frozen=True)
class _CutItem:
    """One item of work: find the first line of a range."""

    source: Source
    span: Span


def observe_sources(config: CleanConfig, digest: Digest) -> JsonValue:
    """Return what the sources and the corpora of held_out.against hold now: part of the fingerprint of the corpus."""
    observed: dict[str, JsonValue] = {
        "sources": {source.name: READERS[source.kind].identity(source, digest) for source in config.sources},
        "held_out_elsewhere": observe_held_out(config.held_out.against),
    }
    return observed | {name: digest(path) for name, path in _own_files(config)}


def _own_files(config: CleanConfig) -> Iterator[tuple[str, Path]]:
    """Yield the files that the settings name, whose content is hashed. Raises UserError if one is missing."""
    named = {
        "identify.model": config.identify.model if config.identify else None,
        "filters.file": config.filters.file if config.filters else None,
        **{f"scores.{number}.model": score.model for number, score in enumerate(config.scores)},
        **{f"blocklists.{number}.path": one.path for number, one in enumerate(config.blocklists)},
    }
    for name, path in named.items():
        if path is not None:
            if not Path(path).is_file():
                raise UserError(f"{name}: {path} is not there, or is no file; correct its path")
            yield name, Path(path)


def check_clean(config: CleanConfig) -> None:
    """Raise UserError if a file that the settings name is missing, or the thresholds or lists in one are wrong."""
    for _ in _own_files(config):
        pass
    if config.filters:
        load_thresholds(config.filters)
    Scorer(tuple(score for score in config.scores if score.kind == "linear"), config.blocklists)


def clean(config: CleanConfig, *, out: Path, executor: Executor) -> CleanCorpus:
    """Make the clean corpus: every document that is read is kept, held out or dropped for a counted reason.

    Raises UserError if too many records are unreadable, or if no document is left to train on.
    """
    directory = out / "parts"
    tally = Tally(config)
    executor.warm(scan_part, num_items=PARTS)  # workers start while files are listed and cut
    parts = _list_parts(config, directory, executor)
    not_learned: dict[str, int] = {}
    learned: Path | None = None
    if config.filters and config.filters.learn:
        learned = directory / "learned.json"
        not_learned = learn(parts, config.filters.learn, learned, executor)
        parts = [replace(part, learned=learned) for part in parts]
    for part, found in zip(parts, executor.map(scan_part, parts, label="reading sources"), strict=True):
        for piece in found:
            tally.add(part.source, piece)
    tally.check()
    pieces = tally.pieces()
    index = directory / "pieces"
    pieces.save(index)
    elsewhere = find_held_out_digests(config.held_out.against)
    number = choose_num_partitions(int(pieces.group_documents.sum()))
    partitions = [Partition(directory, index, i, number, elsewhere) for i in range(number)]
    dropped = list(executor.map(find_duplicates, partitions, label="finding duplicates"))
    kept, kept_bytes, duplicates, held_elsewhere = count_kept(pieces, dropped)
    counts = tally.counts(pieces, kept, kept_bytes, duplicates, held_elsewhere)
    _check_not_empty(counts)
    items = _list_shards(pieces, kept_bytes, config, out=out, index=index, num_partitions=number)
    written = list(executor.map(write_shard, items, label="writing documents"))
    tally.write_files(out / FILES)
    if config.filters or config.scores:
        write_samples(out / SAMPLES_FILE, tally.samples.items())
    if config.filters:
        _write_thresholds(config.filters, counts, learned, out / THRESHOLDS_FILE)
    _delete_atomically(directory)
    return CleanCorpus(
        shards=tuple(shard for shard in written if shard.path.startswith(DIRECTORIES[False])),
        held_out=tuple(shard for shard in written if shard.path.startswith(DIRECTORIES[True])),
        counts=counts,
        unreadable=tuple(tally.unreadable),
        identified=tally.identified(),
        thresholds=THRESHOLDS_FILE if config.filters else "",
        not_learned=not_learned,
        samples=SAMPLES_FILE if config.filters or config.scores else "",
        num_empty_files=tally.num_empty_files,
    )


def _write_thresholds(config: FilterConfig, counts: tuple[CorpusCount, ...], learned: Path | None, path: Path) -> None:
    """Write what the filters applied to each language, in the form that `filters.file` takes."""
    filters = Filters(config, load_learned(learned))
    languages = sorted({count.language for count in counts})
    applied = Thresholds(languages={language: filters.applied(language) for language in languages})
    write_text(path, dump_yaml(applied.model_dump(mode="json", exclude_defaults=True)))


def _delete_atomically(directory: Path) -> None:
    """Rename the directory, then delete it: a restart must not go on from half of it."""
    gone = directory.with_name(f".{directory.name}.deleted")
    shutil.rmtree(gone, ignore_errors=True)
    directory.rename(gone)
    shutil.rmtree(gone)


def part_bytes(num_bytes: int) -> int:
    """Return the size of a part of a corpus whose files have so many bytes in all."""
    return min(MOST_PART_BYTES, max(LEAST_PART_BYTES, num_bytes // PARTS))


def _list_parts(config: CleanConfig, directory: Path, executor: Executor) -> list[Part]:
    """Cut the sources into parts of about one size, whatever their files are."""
    listed = [(source, _without_paths(source)) for source in config.sources]
    spans = [(bare, span) for source, bare in listed for span in READERS[source.kind].spans(source)]
    total = sum(span.num_bytes for _, span in spans)
    size = part_bytes(total)
    cut = _split(spans, size, executor)
    parts: list[Part] = []
    bare = config.model_copy(update={"sources": ()})
    for source, own in _bundle(cut, size):
        parts.append(Part(len(parts), source, own, bare, directory, min(size, config.shard_bytes)))
    return parts


def _without_paths(source: Source) -> Source:
    """Return a source as an item of work takes it: a list of 100,000 files would go along with each of their parts."""
    return source.model_copy(update={"paths": ()}) if hasattr(source, "paths") and source.kind != "latex" else source


def _split(
    spans: Sequence[tuple[Source, Span]], size: int, executor: Executor
) -> Iterator[tuple[Source, tuple[Span, ...]]]:
    """Yield each source with the spans of one of its files, cut where it is larger than `size`, or not known."""
    items = [
        _SplitItem(source, span, size)
        for source, span in spans
        if READERS[source.kind].split and not 0 < span.num_bytes <= size * 3 // 2
    ]
    is_quick = len(items) <= FEW_FILES and not any(item.source.kind == "hugging_face" for item in items)
    split = map(_split_span, items) if is_quick else executor.map(_split_span, items, label="looking into files")
    found = {(item.source.name, item.span.name): cut for item, cut in zip(items, split, strict=True)}
    ranges = [
        _CutItem(item.source, span)
        for item in items
        if READERS[item.source.kind].cut
        for span in found[item.source.name, item.span.name]
        if not span.is_whole
    ]
    cuts: defaultdict[tuple[str, str], list[LineCut]] = defaultdict(list)
    is_little = sum(item.span.num_bytes for item in ranges) <= LITTLE_BYTES
    counted = map(_cut_span, ranges) if is_little else executor.map(_cut_span, ranges, label="counting lines")
    for cut_item, cut in zip(ranges, counted, strict=True):
        cuts[cut_item.source.name, cut_item.span.name].append(cut)
    for source, span in spans:
        key = source.name, span.name
        own = found.get(key, (span,))
        yield source, settle(own, cuts[key]) if key in cuts else own


def _split_span(item: _SplitItem) -> tuple[Span, ...]:
    split = READERS[item.source.kind].split
    assert split is not None
    return split(item.source, item.span, item.num_bytes)


def _cut_span(item: _CutItem) -> LineCut:
    cut = READERS[item.source.kind].cut
    assert cut is not None
    return cut(item.source, item.span)


def _bundle(files: Iterator[tuple[Source, tuple[Span, ...]]], size: int) -> Iterator[tuple[Source, tuple[Span, ...]]]:
    """Yield each source with spans that make a part: small files together, one of unknown size alone."""
    for _, group in groupby(files, key=lambda pair: pair[0].name):
        taken, num_bytes = list[Span](), 0
        for source, spans in group:
            for span in spans:
                if taken and (not span.num_bytes or num_bytes + span.num_bytes > size):
                    yield source, tuple(taken)
                    taken, num_bytes = [], 0
                taken.append(span)
                num_bytes += span.num_bytes or size
        if taken:
            yield source, tuple(taken)


def _list_shards(
    pieces: Pieces, kept_bytes: Ints, config: CleanConfig, *, out: Path, index: Path, num_partitions: int
) -> list[ShardItem]:
    numbers = Counter[str]()
    items = []
    for source, is_held_out, first, stop in plan_shards(pieces, kept_bytes, config.shard_bytes):
        prefix = f"{DIRECTORIES[is_held_out]}/{source}"
        shard = f"{prefix}-{numbers[prefix]:05d}"
        numbers[prefix] += 1
        items.append(ShardItem(out, index.parent, index, num_partitions, shard, source, first, stop))
    return items


def _check_not_empty(counts: tuple[CorpusCount, ...]) -> None:
    if sum(count.num_kept for count in counts) == 0:
        reasons: Counter[str] = Counter()
        for count in counts:
            reasons.update(count.dropped)
        reasons["held out"] = sum(count.num_held_out for count in counts)
        why = ", ".join(f"{n} {reason}" for reason, n in reasons.items() if n) or "the sources hold none"
        raise UserError(f"no document is left to train on ({why}); check the sources and the bounds of the recipe")
