"""Streams of tokens: those of one source in one language, over all shards of a corpus, end to end."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from cluster.host.files import inside
from configs.base import Artifact
from data_prep.manifests import TokenizedCorpus
from data_prep.tokens.megatron_shards import open_tokens
from data_prep.tokens.sample_order import Ints


@dataclass(frozen=True)
class TokenRun:
    """Consecutive tokens of a stream in one shard, from `start` on."""

    path: Path
    start: int
    num_tokens: int
    num_bytes: int
    """UTF-8 bytes of the text of these tokens."""


class TokenStream:
    """Runs of tokens end to end, memory-mapped from disk."""

    def __init__(self, runs: Sequence[TokenRun]) -> None:
        self.num_tokens = sum(run.num_tokens for run in runs)
        self.num_bytes = sum(run.num_bytes for run in runs)
        self._runs = runs
        self._ends = list(accumulate(run.num_tokens for run in runs))
        self._arrays = {run.path: open_tokens(run.path) for run in runs}

    def read(self, start: int, count: int) -> Ints:
        """Return at most `count` tokens from `start`."""
        pieces = []
        stop = min(start + count, self.num_tokens)
        while start < stop:
            number = bisect_right(self._ends, start)
            run = self._runs[number]
            offset = start - (self._ends[number] - run.num_tokens)
            length = min(stop - start, run.num_tokens - offset)
            pieces.append(self._arrays[run.path][run.start + offset : run.start + offset + length])
            start += length
        return np.concatenate(pieces).astype(np.int64)


def open_token_streams(corpus: Artifact[TokenizedCorpus]) -> dict[tuple[str, str], TokenStream]:
    """Open the streams of a corpus, by (source, language), in the order of these names."""
    runs: dict[tuple[str, str], list[TokenRun]] = {}
    for shard in corpus.manifest.shards:
        start = 0
        for segment in shard.segments:
            run = TokenRun(inside(corpus.dir, shard.path), start, segment.num_tokens, segment.num_bytes)
            runs.setdefault((shard.source, segment.language), []).append(run)
            start += segment.num_tokens
    return {key: TokenStream(runs_of_stream) for key, runs_of_stream in sorted(runs.items())}
