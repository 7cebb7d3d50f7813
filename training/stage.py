"""The stage that trains a model: it starts the ranks, and shows their progress. Only the ranks import heavy libraries.

Sizes that the pool leaves open are chosen (training/sizing/), the session is recorded (training/log/sessions_file.py),
and the executor runs training/loop/trainer.py on each rank, again after a rank is lost. Signals become requests to the
ranks (training/loop/stop_requests.py).
"""

from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from cluster.executor import Executor, Rank
from cluster.host.console import print_line
from cluster.leases.fence import fence_of
from cluster.placement import Placement
from cluster.rank_output import RANKS
from configs.base import Artifact, ConfigError, StartUpError
from configs.training.train import CadenceConfig, TrainConfig
from data_prep.manifests import TokenizedCorpus, TrainedTokenizer
from data_prep.tokenizer.stage import check_certificate
from data_prep.tokens.join import join_tokens
from training.data.epochs import plan_epochs
from training.init.locate import check_same_tokenizer, with_absolute_paths
from training.job import Job
from training.log.metrics_file import METRICS_FILE
from training.log.notices import show_notices
from training.log.progress_bar import show_progress
from training.log.sessions_file import EndReason, attention_used, record_session_end, record_session_start
from training.loop.stop_requests import Stopped, ask_to_resize, find_slow_host, stop_on_signal
from training.manifests import TrainedModel
from training.sizing.recipe_size import settle_placement


def train(
    config: TrainConfig,
    *,
    tokens: tuple[Artifact[TokenizedCorpus], ...],
    tokenizer: Artifact[TrainedTokenizer],
    init: Artifact[TrainedModel] | None = None,
    cadence: CadenceConfig,
    out: Path,
    executor: Executor,
) -> TrainedModel:
    """Train on a gang of ranks; a lost rank costs the steps since the last checkpoint.

    `init` is the training that `config.init_from` starts from, if that has no path.
    Raises Stopped when a signal asked training to stop, and its work is saved.
    """
    check_certificate(tokenizer)
    config = with_absolute_paths(config, init)
    corpus = join_tokens(tokens)
    plan_epochs(corpus, config)  # what the corpus does not allow is told before anything waits for devices
    if config.init_from is not None and config.init_from.mode == "new_data":
        check_same_tokenizer(config.init_from, tokenizer)
    placement = _settle(executor, config, tokenizer, store=out.parent)
    session = record_session_start(out)
    end_reason: EndReason = "failed"
    try:
        with (
            show_notices(out),
            show_progress(out / METRICS_FILE, num_steps=config.total_steps),
            stop_on_signal(out, grace_seconds=placement.grace_seconds),
        ):
            while True:
                job = Job(config, corpus, tokenizer, out, placement, session, fence_of(out), cadence)
                try:
                    model = _run_gang(executor, job)
                    break
                except StartUpError as error:
                    placement = _without_those_gone(executor, job, error)
        end_reason = "finished"
        executor.used_placement = replace(placement, attention=attention_used(out) or placement.attention)
    except (Stopped, KeyboardInterrupt):
        end_reason = "stopped"
        raise
    finally:
        with suppress(OSError):  # on a full disk the session has no end, as if it had been killed
            record_session_end(out, session=session, why=end_reason)
    assert model is not None, "rank 0 returns the manifest"
    return model


def _settle(
    executor: Executor, config: TrainConfig, tokenizer: Artifact[TrainedTokenizer], *, store: Path
) -> Placement:
    """Lay the training out, choose what its pool leaves open, and say what it is laid out on."""
    vocab_size = tokenizer.manifest.vocab_size
    placement = settle_placement(executor.placement(), config, vocab_size=vocab_size, store=store)
    executor.used_placement = placement
    print_line(f"training: {placement.found}")
    for member in placement.members:
        if member.left_out:
            print_line(f"training: {member.kind} takes no part: {member.left_out}")
    return placement


def _run_gang(executor: Executor, job: Job) -> TrainedModel | None:
    return executor.gang(
        _train_rank,
        job,
        label="training",
        warm=partial(_import_libraries, job.config.model.architecture),
        resize=partial(ask_to_resize, job.out),
        output=job.out / RANKS,
        slow_host=partial(find_slow_host, job.out),
    )


def _without_those_gone(executor: Executor, job: Job, error: StartUpError) -> Placement:
    """Return the layout with members that were left out in the place of those whose machines are gone.

    Raises `error`, for which the ranks did not start, if no such member takes part even so.
    """
    if not any(member.left_out for member in job.placement.members):
        raise error
    try:
        placement = _settle(executor, job.config, job.tokenizer, store=job.out.parent)
    except (StartUpError, ConfigError):
        raise error from None
    both = zip(job.placement.members, placement.members, strict=True)
    joined = [now.kind for before, now in both if before.left_out and now.num_ranks]
    if not joined:
        raise error
    print_line(f"training: {error}; it goes on with {' and '.join(joined)}, which took no part before")
    return placement


def _train_rank(rank: Rank, job: Job) -> TrainedModel | None:
    from training.loop.trainer import train_rank

    return train_rank(rank, job)


def _import_libraries(architecture: str) -> None:
    """Import what a rank imports, so that a warm spare process has it loaded."""
    import training.loop.trainer
    from training.network.build_model import import_architecture

    assert training.loop.trainer
    import_architecture(architecture)
