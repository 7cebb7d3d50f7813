"""Streams of tokens: those of one source in one language, over all shards of a corpus, end to end.

The manifest says where each stream's tokens are: no file is touched before a token of it is read. A shard has one
memory map, which all streams share; the least recently used are closed, so that any number of shards can be read.
"""

import resource
from array import array
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache, partial
from mmap import MADV_RANDOM, MADV_WILLNEED, PAGESIZE, mmap

import numpy as np
import numpy.typing as npt

from cluster.host.files import inside
from cluster.storage.errors import explain_os_error
from configs.base import Artifact, UserError
from data_prep.manifests import Segment, TokenizedCorpus
from data_prep.tokens.megatron_shards import dtype_for, map_tokens
from data_prep.tokens.sample_order import Ints

MAX_OPEN_SHARDS = 4096
"""Most shards that are open at a time: far below the 65,530 maps that Linux gives a process."""


class _Runs:
    """The runs of a stream, which are consecutive tokens in one shard: arrays with an entry for each run."""

    def __init__(self) -> None:
        self.shards, self.starts, self.lengths = array("i"), array("q"), array("q")
        self.num_bytes = 0

    def add(self, shard: int, start: int, segment: Segment) -> None:
        self.num_bytes += segment.num_bytes
        if segment.num_tokens:  # else there is nothing to read, and an empty file cannot be mapped
            self.shards.append(shard)
            self.starts.append(start)
            self.lengths.append(segment.num_tokens)


class TokenStream:
    """Runs of tokens end to end, memory-mapped from disk when they are read. Threads may read it side by side."""

    def __init__(
        self,
        runs: _Runs,
        open_shard: Callable[[int], mmap],
        check_ids: Callable[[int, Ints], None],
        dtype: np.dtype[np.integer],
    ) -> None:
        """`open_shard` maps a shard by its number; `check_ids` raises UserError on what cannot be ids of it."""
        lengths = np.array(runs.lengths, dtype=np.int64)
        self._ends = lengths.cumsum()
        self._shards = np.array(runs.shards, dtype=np.int32)
        self._shifts = np.array(runs.starts, dtype=np.int64) - (self._ends - lengths)
        """From a token's number in the stream to its number in the shard."""
        self._open_shard, self._check_ids, self._dtype = open_shard, check_ids, dtype
        self.num_tokens = int(lengths.sum())
        self.num_bytes = runs.num_bytes
        """UTF-8 bytes of the text of these tokens."""

    def read(self, start: int, count: int) -> Ints:
        """Return at most `count` tokens from `start`.

        Raises UserError if a shard is missing, is not as long as the manifest says or has ids beyond the vocabulary,
        and InfrastructureError if the file system fails.
        """
        stop = min(start + count, self.num_tokens)
        tokens = np.empty(max(stop - start, 0), dtype=np.int64)
        number, done = int(self._ends.searchsorted(start, side="right")), 0
        while done < len(tokens):
            position = start + done
            length = min(stop, int(self._ends[number])) - position
            shard = int(self._shards[number])
            first = position + int(self._shifts[number])
            tokens[done : done + length] = _view(self._open_shard(shard), first, length, self._dtype)
            self._check_ids(shard, tokens[done : done + length])
            number, done = number + 1, done + length
        return tokens


def open_token_streams(corpus: Artifact[TokenizedCorpus]) -> dict[tuple[str, str], TokenStream]:
    """Open the streams of a corpus, by (source, language), in the order of these names. No file is touched."""
    dtype = dtype_for(corpus.manifest.vocab_size)
    # A map is closed when nothing refers to it: one that another thread is reading outlives its place in the cache.
    open_shard = lru_cache(max_open_shards())(partial(_open_shard, corpus, dtype))
    streams = sorted(_collect_runs(corpus.manifest).items())
    check_ids = partial(_check_ids, corpus)
    return {key: TokenStream(runs, open_shard, check_ids, dtype) for key, runs in streams}


def max_open_shards() -> int:
    """Return how many shards may be open at a time: a map keeps a descriptor, and half of them are left for others.

    The process's soft limit of open files, 1,024 on many systems, is raised as far as it may be and as is of use.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_OPEN_SHARDS if hard == resource.RLIM_INFINITY else min(2 * MAX_OPEN_SHARDS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # macOS has a lower limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MAX_OPEN_SHARDS if soft == resource.RLIM_INFINITY else max(1, min(MAX_OPEN_SHARDS, soft // 2))


def _collect_runs(manifest: TokenizedCorpus) -> dict[tuple[str, str], _Runs]:
    streams: dict[tuple[str, str], _Runs] = {}
    for number, shard in enumerate(manifest.shards):
        start = 0
        for segment in shard.segments:
            key = shard.source, segment.language
            if key not in streams:
                streams[key] = _Runs()
            streams[key].add(number, start, segment)
            start += segment.num_tokens
    return streams


def _open_shard(corpus: Artifact[TokenizedCorpus], dtype: np.dtype[np.integer], number: int) -> mmap:
    """Map a shard, to be read in random order: without read-ahead, of which nearly all would be of other samples."""
    shard = corpus.manifest.shards[number]
    num_tokens = sum(segment.num_tokens for segment in shard.segments)
    path = inside(corpus.dir, f"{shard.path}.bin")
    try:
        mapped = map_tokens(path, num_tokens, dtype)
    except OSError as error:
        where = f"token shard {path}"
        raise explain_os_error(error, where=where, elsewhere="put the store on another disk") from error
    except ValueError as error:
        raise UserError(
            f"{error} that its manifest says; the file is damaged or not whole: delete the artifact that it is in, to "
            "have it made again"
        ) from error
    mapped.madvise(MADV_RANDOM)
    return mapped


def _check_ids(corpus: Artifact[TokenizedCorpus], number: int, ids: Ints) -> None:
    """Raise UserError on ids beyond the vocabulary: the embedding would read other memory, or stop a GPU."""
    size = corpus.manifest.vocab_size
    wrong = ids[(ids < 0) | (ids >= size)]
    if len(wrong):
        path = inside(corpus.dir, f"{corpus.manifest.shards[number].path}.bin")
        raise UserError(
            f"{path} holds the id {wrong[0]}, and the vocabulary has {size:,} pieces; the file is damaged: delete the "
            "artifact that it is in, to have it made again"
        )


def _view(shard: mmap, start: int, count: int, dtype: np.dtype[np.integer]) -> npt.NDArray[np.integer]:
    """Return `count` tokens of a shard from `start`, as they are on disk. Their pages are fetched in one go."""
    first, num_bytes = start * dtype.itemsize, count * dtype.itemsize
    page = first - first % PAGESIZE
    shard.madvise(MADV_WILLNEED, page, first - page + num_bytes)
    return np.frombuffer(shard, dtype=dtype, count=count, offset=first)
