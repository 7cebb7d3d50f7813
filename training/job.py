"""What a rank is told. Imports nothing heavy, so that whoever starts the ranks can say it."""

from dataclasses import dataclass
from pathlib import Path

from cluster.leases.fence import Fence
from cluster.placement import Placement
from configs.base import Artifact
from configs.training import TrainConfig
from data_prep.manifests import TokenizedCorpus, TrainedTokenizer


@dataclass(frozen=True)
class Job:
    """A training run: what to train on, how, where to write."""

    config: TrainConfig
    tokens: Artifact[TokenizedCorpus]
    tokenizer: Artifact[TrainedTokenizer]
    out: Path
    placement: Placement
    session: str
    """Of training/log/attempts_file.py."""

    fence: Fence
    """Checked before each commit."""
