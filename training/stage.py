"""The stage that trains a model. Imports nothing heavy: the ranks do."""

from pathlib import Path

from cluster.executor import Executor, Rank
from configs.base import Artifact
from configs.training import TrainConfig
from data_prep.manifests import TokenizedCorpus, TrainedTokenizer
from data_prep.train_tokenizer import check_certificate
from training.job import Job
from training.manifests import TrainedModel
from training.metrics import FILE
from training.notices import pass_on
from training.watch import watch_metrics


def train(
    config: TrainConfig,
    *,
    tokens: Artifact[TokenizedCorpus],
    tokenizer: Artifact[TrainedTokenizer],
    out: Path,
    executor: Executor,
) -> TrainedModel:
    """Train on a gang of ranks; a lost rank costs the steps since the last checkpoint."""
    check_certificate(tokenizer)
    job = Job(config, tokens, tokenizer, out, executor.placement())
    with pass_on(out), watch_metrics(out / FILE, num_steps=config.num_steps):
        return executor.gang(_train_rank, job, label="training")


def _train_rank(rank: Rank, job: Job) -> TrainedModel:
    from training.loop import train_rank

    return train_rank(rank, job)
