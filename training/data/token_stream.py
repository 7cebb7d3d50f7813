"""The tokens of one source in one language, over all shards of a corpus, end to end."""

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
class Run:
    """Consecutive tokens of a stream in one shard, from `start` on."""

    path: Path
    start: int
    num_tokens: int
    num_bytes: int
    """UTF-8 bytes of their text."""


class TokenStream:
    """Runs end to end, mapped from disk."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.num_tokens = sum(run.num_tokens for run in runs)
        self.num_bytes = sum(run.num_bytes for run in runs)
        self._runs = runs
        self._ends = list(accumulate(run.num_tokens for run in runs))
        self._arrays = {run.path: open_tokens(run.path) for run in runs}

    def read(self, start: int, count: int) -> Ints:
        """At most `count` tokens from `start`."""
        pieces = []
        stop = min(start + count, self.num_tokens)
        while start < stop:
            number = bisect_right(self._ends, start)
            run = self._runs[number]
            inside = start - (self._ends[number] - run.num_tokens)
            take = min(stop - start, run.num_tokens - inside)
            pieces.append(self._arrays[run.path][run.start + inside : run.start + inside + take])
            start += take
        return np.concatenate(pieces).astype(np.int64)


def token_streams(corpus: Artifact[TokenizedCorpus]) -> dict[tuple[str, str], TokenStream]:
    """The streams by source and language, in that order."""
    runs: dict[tuple[str, str], list[Run]] = {}
    for shard in corpus.manifest.shards:
        start = 0
        for segment in shard.segments:
            run = Run(inside(corpus.dir, shard.path), start, segment.num_tokens, segment.num_bytes)
            runs.setdefault((shard.source, segment.language), []).append(run)
            start += segment.num_tokens
    return {key: TokenStream(own) for key, own in sorted(runs.items())}
