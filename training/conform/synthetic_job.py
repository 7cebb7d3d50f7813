"""Trainings without a corpus: made-up tokens that a model can learn, and one rank in this process."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.executor import Rank
from cluster.host.limits import this_machine
from cluster.host.network import free_port
from cluster.leases.fence import fence_of
from cluster.placement import Placement, place
from configs.base import Artifact
from configs.pools import PoolConfig
from configs.training.train import CadenceConfig, TrainConfig
from data_prep.manifests import Certificate, Segment, TokenizedCorpus, TokenShard, TrainedTokenizer
from data_prep.tokens.megatron_shards import dtype_for, write_shard
from training.accelerator import is_accelerator
from training.conform.scale import Scale, Trial
from training.data.prefetch import StepInput
from training.job import Job
from training.log.sessions_file import record_session_start
from training.loop.deterministic import deterministic_kernels
from training.loop.step import RankStatus, StepResult
from training.loop.stop_requests import RequestPoller, TrainingRequests
from training.loop.trainer import Trainer
from training.loop.watchdog import Watchdog
from training.zero.engine import set_learning_rate
from training.zero.process_group import join_process_group, leave_process_group

EOS, PAD, FIRST_PIECE = 1, 2, 3
_STREAMS = (("web", "de"), ("web", "sw"), ("science", "en"))
_HANG_SECONDS = 600.0


@dataclass(frozen=True)
class Bench:
    """Where checks run: the only rank of a process group that this process has joined."""

    rank: Rank
    device: torch.device
    scale: Scale
    directory: Path
    """An empty directory of the checks' own."""


@contextmanager
def open_bench(device_type: str, scale: Scale, directory: Path) -> Iterator[Bench]:
    """Join a process group of one rank, which computes on this type of device with all cores of this process.

    OMP_NUM_THREADS may say that it has fewer.
    """
    num_threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    gc.collect()
    gc.freeze()  # DeepSpeed collects garbage six times an engine
    rank = Rank(0, 1, device_type, num_threads, "127.0.0.1", free_port(), num_restarts=0)
    os.environ.update(rank.environment())
    device = join_process_group(rank, timeout_seconds=_HANG_SECONDS)
    try:
        yield Bench(rank, device, scale, directory)
    finally:
        leave_process_group()


def make_config(trial: Trial, **changes: Any) -> TrainConfig:
    """Return the recipe of a trial, with the keys in `changes` in the place of its own."""
    settings: dict[str, Any] = {
        "model": dict(trial.model),
        "sequence_length": trial.sequence_length,
        "global_batch_size": trial.rows * trial.passes,
        "num_steps": trial.num_steps,
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"kind": "cosine", "num_warmup_steps": 2},
        "precision": trial.precision,
        "checkpoint_every_steps": trial.num_steps,
        "validation": None,
    }
    return TrainConfig.model_validate(settings | changes)


def make_placement(bench: Bench, trial: Trial, **pool: Any) -> Placement:
    """Lay the one rank out on this machine, as the in-process executor does; `pool` has more of the pool's keys."""
    settings = {
        "num_ranks": 1,
        "zero_stage": 1,
        "micro_batch_size": trial.rows,
        "cpus_per_rank": bench.rank.num_threads,
    }
    nodes = [this_machine(int(is_accelerator(bench.device)))]
    placed = place(PoolConfig.model_validate(settings | pool), nodes, wandb=None)
    return replace(placed, device=bench.device.type)


def make_job(bench: Bench, trial: Trial, name: str, *, config: TrainConfig | None = None, **pool: Any) -> Job:
    """Make the job of a trial, which writes into the directory `name`; `config` is another recipe than the trial's."""
    out = bench.directory / name
    out.mkdir(parents=True, exist_ok=True)
    certificate = Certificate(num_texts=0, num_languages=0, model_sha256="", tokenizer_json_sha256="")
    tokenizer = TrainedTokenizer(
        vocab_size=trial.vocab_size, eos_id=EOS, pad_id=PAD, sample_bytes={}, certificate=certificate
    )
    return Job(
        config=config or make_config(trial),
        tokens=make_corpus(bench.directory / f"corpus-{trial.vocab_size}-{trial.sequence_length}", trial),
        tokenizer=Artifact(bench.directory, tokenizer),
        out=out,
        placement=make_placement(bench, trial, **pool),
        session=record_session_start(out),
        fence=fence_of(out),
        cadence=CadenceConfig(),
    )


def make_corpus(directory: Path, trial: Trial) -> Artifact[TokenizedCorpus]:
    """Write documents that count on by a stride of their own, in three streams; the same for the same trial."""
    random = np.random.default_rng(0)
    num_pieces, num_tokens = trial.vocab_size - FIRST_PIECE, 4 * trial.sequence_length * (trial.rows * trial.passes + 2)
    shards = []
    for source, language in _STREAMS:
        documents: list[list[int]] = []
        while sum(map(len, documents)) < num_tokens:
            length = int(random.integers(4, trial.sequence_length))
            first, stride = random.integers(0, num_pieces), random.integers(1, 8)
            documents.append([*(FIRST_PIECE + (first + stride * np.arange(length)) % num_pieces).tolist(), EOS])
        total = sum(map(len, documents))
        segment = Segment(language=language, num_documents=len(documents), num_tokens=total, num_bytes=3 * total)
        write_shard(directory / f"{source}-{language}", documents, dtype_for(trial.vocab_size))
        shards.append(TokenShard(path=f"{source}-{language}", source=source, segments=(segment,)))
    manifest = TokenizedCorpus(shards=tuple(shards), vocab_size=trial.vocab_size, eos_id=EOS, unigram_entropy=5.0)
    return Artifact(directory, manifest)


@contextmanager
def open_trainer(bench: Bench, job: Job) -> Iterator[Trainer]:
    """Make the trainer of a job, whose engine is of no use after the block."""
    free_memory(bench.device)  # of the trainer before, which its caller has let go by now
    poller = RequestPoller(job.out, watches_files=False)
    with deterministic_kernels(job.placement):
        watchdog = Watchdog(job.out, bench.rank, timeout_seconds=_HANG_SECONDS)  # not entered: a limit of time is set
        trainer = Trainer(bench.rank, job, bench.device, watchdog, poller)
        try:
            yield trainer
        finally:
            trainer.prefetcher.close()
            trainer.state.built.engine.destroy()  # hooks of its would hold it, except in ZeRO-3, where others do


def free_memory(device: torch.device) -> None:
    """Give back the memory of what nobody holds any more."""
    gc.collect()
    if is_accelerator(device):
        torch.get_device_module(device).empty_cache()


def train(bench: Bench, job: Job) -> None:
    """Train a job to its end, checkpoints and all."""
    with open_trainer(bench, job) as trainer:
        trainer.run()


def read_inputs(trainer: Trainer, number: int) -> list[StepInput]:
    """Return the inputs of the first steps, on the device."""
    position, inputs = trainer.state.progress.position, []
    for step in range(number):
        inputs.append(trainer.prefetcher.take(position, trainer.balancer.plans, step=step, is_last=False))
        position = inputs[-1].position
    return inputs


def take_step(trainer: Trainer, step_input: StepInput) -> StepResult:
    """Take an optimizer step at the recipe's full learning rate, without its metrics and checkpoints."""
    set_learning_rate(trainer.state.engine, trainer.config.optimizer.learning_rate)
    status = RankStatus(TrainingRequests(), save_failed=False, own_seconds=0.0, pass_seconds=0.0)
    return trainer.stepper.run_step(step_input, status, trainer.watchdog, timeout_factor=1.0)
