"""The job that the ranks of a training are given. Imports nothing heavy: the process that starts them makes it."""

from dataclasses import dataclass
from pathlib import Path

from cluster.leases.fence import Fence
from cluster.placement import Placement
from configs.base import Artifact
from configs.training.train import CadenceConfig, TrainConfig
from data_prep.manifests import TokenizedCorpus, TrainedTokenizer


@dataclass(frozen=True)
class Job:
    """A training: what to train on, how, and where to write."""

    config: TrainConfig
    tokens: Artifact[TokenizedCorpus]
    tokenizer: Artifact[TrainedTokenizer]
    out: Path
    placement: Placement
    session: str
    """Id of the session in attempts.jsonl (training/log/sessions_file.py)."""

    fence: Fence
    """Checked before each commit: the lease of `out` must still be this run's."""

    cadence: CadenceConfig
