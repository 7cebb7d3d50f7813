"""The second pass of cleaning: shards of about one size, each of one language where that costs nothing.

The documents of a source are ordered by language, then as they were read. A language that fills a shard has shards of
its own; smaller ones that follow each other share one. A block that loses no document is copied as it is.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import zstandard

from cluster.host.files import whole_file, write_text
from configs.base import MIB
from data_prep.cleaning.document_files import LEVEL
from data_prep.cleaning.duplicates import Ints, Pieces, load_dropped, save_array
from data_prep.cleaning.held_out import DIGEST_BYTES, SHARD_DIGEST_ROW
from data_prep.cleaning.pieces import DIGEST_ROW
from data_prep.manifests import CorpusShard

LEAST_SHARD_BYTES = 8 * MIB
FEWEST_SHARDS = 32
"""A source has so many shards, unless they were smaller than LEAST_SHARD_BYTES: for as many workers to tokenise it."""

DIRECTORIES = {False: "shards", True: "held_out"}
"""Where documents are written to, by whether they are held out."""


@dataclass(frozen=True)
class ShardItem:
    """One item of work: a shard to write."""

    out: Path
    directory: Path
    """Where the pieces are."""

    index: Path
    num_partitions: int
    shard: str
    """Path of the shard in the artifact, without its suffix."""

    source: str
    first_group: int
    stop_group: int
    """It has the documents of the groups from the first to before this one."""


def plan_shards(pieces: Pieces, kept_bytes: Ints, shard_bytes: int) -> Iterator[tuple[str, bool, int, int]]:
    """Yield source, whether it is held out, first group and stop of each shard, in the order of the manifest."""
    kinds = pieces.group_source * 2 + pieces.group_is_held_out
    for start, stop in _runs(kinds):
        own = slice(start, stop)
        size = min(shard_bytes, max(LEAST_SHARD_BYTES, int(kept_bytes[own].sum()) // FEWEST_SHARDS))
        for a, b in _cut(kept_bytes[own], pieces.group_language[own], size):
            source = pieces.sources[int(pieces.group_source[start])]
            yield source, bool(pieces.group_is_held_out[start]), start + a, start + b


def _cut(sizes: Ints, languages: Ints, size: int) -> Iterator[tuple[int, int]]:
    """Cut groups into runs of about `size` bytes, at the ends of languages where it can; none is empty."""
    begin, taken = 0, 0
    for start, stop in _runs(languages):
        in_language = int(sizes[start:stop].sum())
        if taken and taken + in_language > size * 3 // 2:
            yield begin, start
            begin, taken = start, 0
        if in_language > size * 3 // 2:
            bounds = _even_bounds(sizes[start:stop], round(in_language / size))
            yield from ((start + a, start + b) for a, b in pairwise(bounds))
            begin, taken = stop, 0
        else:
            taken += in_language
            if taken >= size:
                yield begin, stop
                begin, taken = stop, 0
    if taken:
        yield begin, len(sizes)


def _runs(values: Ints) -> Iterator[tuple[int, int]]:
    """Yield where each run of equal values begins and ends."""
    if len(values):
        yield from pairwise([0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)])


def _even_bounds(sizes: Ints, number: int) -> list[int]:
    """Return the bounds of `number` runs, or fewer, of as equal size as their ends allow; none is empty."""
    ends = np.cumsum(sizes)
    inner = [int(np.searchsorted(ends, ends[-1] * i / number)) + 1 for i in range(1, number)]
    bounds: list[int] = np.unique([0, *inner, len(sizes)]).tolist()
    if bounds[-2] and ends[bounds[-2] - 1] == ends[-1]:  # what is after it has lost all its documents
        del bounds[-2]
    return bounds


def write_shard(item: ShardItem) -> CorpusShard:
    """Write a shard and the digests of its documents, unless it is there."""
    done = item.directory / f"{item.shard.replace('/', '-')}.done.json"
    if not done.exists():
        write_text(done, _write(item).model_dump_json())
    return CorpusShard.model_validate_json(done.read_bytes())


def _write(item: ShardItem) -> CorpusShard:
    pieces = Pieces.load(item.index)
    digests: list[bytes] = []
    num_documents = 0
    path = f"{item.shard}.jsonl.zst"
    with whole_file(item.out / path) as partial, partial.open("wb") as file:
        for frame, kept in _frames(item, pieces):
            file.write(frame)
            digests.append(kept)
            num_documents += len(kept) // DIGEST_BYTES
    _write_digests(item.out / f"{item.shard}.digests.npy", b"".join(digests))
    return CorpusShard(path=path, source=item.source, num_documents=num_documents, digests=f"{item.shard}.digests.npy")


def _frames(item: ShardItem, pieces: Pieces) -> Iterator[tuple[bytes, bytes]]:
    """Yield the frames of the shard, each with the digests of its documents, in order."""
    starts, stop_group = pieces.group_starts, item.stop_group
    dropped = load_dropped(item.directory, item.num_partitions, int(starts[item.first_group]), int(starts[stop_group]))
    sizes = np.bincount(pieces.group_piece, weights=pieces.group_documents, minlength=len(pieces.names)).astype(int)
    for number in range(item.first_group, stop_group):
        start, row, place = int(starts[number]), int(pieces.group_row[number]), int(pieces.group_piece[number])
        name = pieces.names[place]
        blocks = pieces.blocks[pieces.group_blocks[number] : pieces.group_blocks[number + 1]].tolist()
        with ExitStack() as stack:
            text = stack.enter_context((item.directory / f"{name}.zst").open("rb"))
            all_digests = stack.enter_context((item.directory / f"{name}.digests").open("rb"))
            all_digests.seek(int(sizes[place]) * DIGEST_ROW.itemsize + row * DIGEST_BYTES)
            for offset, length, num_documents in blocks:
                text.seek(offset)
                frame, digests = text.read(length), all_digests.read(num_documents * DIGEST_BYTES)
                stop = start + num_documents
                lost = dropped[np.searchsorted(dropped, start) : np.searchsorted(dropped, stop)] - start
                yield _without(frame, digests, lost.tolist()) if len(lost) else (frame, digests)
                start = stop


def _without(frame: bytes, digests: bytes, lost: list[int]) -> tuple[bytes, bytes]:
    """Return a block without some of its documents."""
    lines = zstandard.ZstdDecompressor().decompress(frame).split(b"\n")[:-1]
    gone = set(lost)
    kept = [i for i in range(len(lines)) if i not in gone]
    if not kept:
        return b"", b""
    text = b"".join(lines[i] + b"\n" for i in kept)
    own = b"".join(digests[i * DIGEST_BYTES : (i + 1) * DIGEST_BYTES] for i in kept)
    return zstandard.ZstdCompressor(level=LEVEL).compress(text), own


def _write_digests(path: Path, digests: bytes) -> None:
    halves = np.frombuffer(digests, dtype=">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    table = np.empty(len(order), dtype=SHARD_DIGEST_ROW)
    table["high"], table["low"], table["row"] = halves[order, 0], halves[order, 1], order
    save_array(path, table)
