"""Several token artifacts as one corpus, which a training reads: their shards, end to end."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.host.files import inside
from configs.base import Artifact, UserError
from data_prep.cleaning.duplicates import save_array
from data_prep.manifests import TokenizedCorpus, TokenShard

COUNTS_FILE = "piece_counts.npy"
"""(vocab_size,) how often each id is in the shards of an artifact; those of several are added for their entropy."""


@dataclass(frozen=True)
class JoinedTokens(Artifact[TokenizedCorpus]):
    """Token artifacts as one: the directory is above all of them, and paths begin with theirs."""

    names: tuple[str, ...]
    """Names of the artifacts."""


def join_tokens(tokens: Sequence[Artifact[TokenizedCorpus]]) -> JoinedTokens:
    """Return token artifacts as one corpus. Raises UserError if they have other tokenizers or a source in common."""
    first = tokens[0].manifest
    for other in tokens[1:]:
        if (other.manifest.vocab_size, other.manifest.eos_id) != (first.vocab_size, first.eos_id):
            raise UserError(
                f"{tokens[0].dir.name} and {other.dir.name} were made with different tokenizers; make both with one"
            )
    directories = [artifact.dir.resolve() for artifact in tokens]
    top = Path(os.path.commonpath([str(directory.parent) for directory in directories]))
    if len(tokens) == 1:
        entropy_of_all = first.unigram_entropy
    else:
        _check_sources(tokens)
        entropy_of_all = entropy(sum(np.load(inside(one, COUNTS_FILE)) for one in directories))

    def moved(directory: Path, shards: Sequence[TokenShard]) -> list[TokenShard]:
        prefix = directory.relative_to(top).as_posix()
        return [shard.model_copy(update={"path": f"{prefix}/{shard.path}"}) for shard in shards]

    pairs = list(zip(directories, tokens, strict=True))
    manifest = TokenizedCorpus(
        shards=tuple(shard for directory, one in pairs for shard in moved(directory, one.manifest.shards)),
        validation=tuple(shard for directory, one in pairs for shard in moved(directory, one.manifest.validation)),
        vocab_size=first.vocab_size,
        eos_id=first.eos_id,
        unigram_entropy=entropy_of_all,
    )
    return JoinedTokens(top, manifest, tuple(directory.name for directory in directories))


def names_of(corpus: Artifact[TokenizedCorpus]) -> tuple[str, ...]:
    """Return the names in the store of the artifacts that hold a corpus."""
    return corpus.names if isinstance(corpus, JoinedTokens) else (corpus.dir.resolve().name,)


def save_counts(directory: Path, counts: npt.NDArray[np.int64]) -> None:
    """Write how often each id occurs in the shards of an artifact."""
    save_array(directory / COUNTS_FILE, counts)


def entropy(counts: npt.NDArray[np.int64]) -> float:
    """Return the Shannon entropy, in nats, of the distribution that `counts` is proportional to."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _check_sources(tokens: Sequence[Artifact[TokenizedCorpus]]) -> None:
    owners: dict[str, str] = {}
    for artifact in tokens:
        for source in {shard.source for shard in artifact.manifest.shards}:
            if source in owners:
                raise UserError(
                    f"{owners[source]} and {artifact.dir.name} both have a source named {source!r}; rename one of them"
                )
            owners[source] = artifact.dir.name
