"""The stage that trains a model. Imports nothing heavy: the ranks do."""

from contextlib import suppress
from functools import partial
from pathlib import Path

from cluster.executor import Executor, Rank
from cluster.leases.fence import fence_of
from configs.base import Artifact
from configs.training import TrainConfig
from data_prep.manifests import TokenizedCorpus, TrainedTokenizer
from data_prep.tokenizer.stage import check_certificate
from training.init.locate import with_absolute_paths
from training.job import Job
from training.log.attempts_file import Why, begin_session, end_session
from training.log.metrics_file import FILE
from training.log.notices import pass_on
from training.log.progress_bar import watch_metrics
from training.loop.stop_requests import Stopped, ask_to_resize, stop_on_signal
from training.manifests import TrainedModel
from training.sizing.recipe_size import settled


def train(
    config: TrainConfig,
    *,
    tokens: Artifact[TokenizedCorpus],
    tokenizer: Artifact[TrainedTokenizer],
    out: Path,
    executor: Executor,
) -> TrainedModel:
    """Train on a gang of ranks; a lost rank costs the steps since the last checkpoint.

    Raises Stopped when a signal asked for it and the work is saved.
    """
    check_certificate(tokenizer)
    placement = settled(executor.placement(), config, vocab_size=tokenizer.manifest.vocab_size)
    executor.used = placement
    session = begin_session(out)
    why: Why = "failed"
    job = Job(with_absolute_paths(config), tokens, tokenizer, out, placement, session, fence_of(out))
    try:
        with (
            pass_on(out),
            watch_metrics(out / FILE, num_steps=config.num_steps),
            stop_on_signal(out, grace_seconds=placement.grace_seconds),
        ):
            model = executor.gang(
                _train_rank,
                job,
                label="training",
                warm=partial(_warm, config.model.architecture),
                resize=partial(ask_to_resize, out),
            )
        why = "finished"
    except (Stopped, KeyboardInterrupt):
        why = "stopped"
        raise
    finally:
        with suppress(OSError):  # on a full disk the session ends with its last sign of life, as if it had been killed
            end_session(out, session=session, why=why)
    assert model is not None, "rank 0 gives the manifest"
    return model


def _train_rank(rank: Rank, job: Job) -> TrainedModel | None:
    from training.loop.trainer import train_rank

    return train_rank(rank, job)


def _warm(architecture: str) -> None:
    """Import what a rank does, so that a spare process has it."""
    import training.loop.trainer
    from training.network.build_model import import_architecture

    assert training.loop.trainer
    import_architecture(architecture)
