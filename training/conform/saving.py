"""Checkpoints: how long a save stalls the loop, and how fast the state gets to host memory and to disk."""

from collections.abc import Iterator
from functools import partial

from training.checkpoint.async_save import Saver
from training.conform.record import Check, judged
from training.conform.scale import Trial
from training.conform.synthetic_job import Bench, make_job, open_trainer, read_inputs, take_step
from training.conform.timing import measure_seconds, wait_for_device
from training.data.tokens_read import count_tokens_read
from training.loop.trainer import Trainer
from training.records import CHECKPOINTS, CheckpointRecord
from training.zero.fragments import owned_fragments

_GB = 1e9
_SAVES = 2
"""The first one allocates the buffer, which later ones use again."""


def check_saving(bench: Bench) -> Iterator[Check]:
    """Save the large model."""
    yield from measure_saving(bench, bench.scale.large, "checkpoint")


def measure_saving(bench: Bench, trial: Trial, name: str) -> Iterator[Check]:
    """Save the state of a trial after a step, twice; the second save is measured."""
    job = make_job(bench, trial, name)
    with open_trainer(bench, job) as trainer:
        for step_input in read_inputs(trainer, 1):
            take_step(trainer, step_input)
        saver = _make_saver(trainer)
        num_bytes = 0
        for step in range(1, 1 + _SAVES):
            fragments = list(owned_fragments(trainer.state.engine))
            num_bytes = sum(tensor.nbytes for fragment in fragments for tensor in fragment.tensors.values())
            wait_for_device(bench.device)
            begin = partial(saver.begin, _make_record(trainer, step), iter(fragments))
            stall = measure_seconds(begin, bench.device)
            writing = measure_seconds(partial(saver.wait, 600.0), bench.device)
            saver.advance(0)
    failed = saver.failure or not (job.out / CHECKPOINTS / f"step-{_SAVES:08d}").is_dir()
    yield judged(f"{name} failures", float(bool(failed)), limit=0.0, detail=str(saver.failure or "none"))
    yield Check(name=f"{name} stall", value=stall, unit="s", detail=f"for {num_bytes / _GB:.3f} GB of state")
    yield Check(name=f"{name} to host memory", value=num_bytes / stall / _GB, unit="GB/s")
    yield Check(
        name=f"{name} to disk",
        value=num_bytes / writing / _GB,
        unit="GB/s",
        detail="checksums and the wait for the disk included",
    )


def _make_saver(trainer: Trainer) -> Saver:
    return Saver(
        trainer.state.root,
        rank=0,
        world_size=1,
        start_id=trainer.state.start_id,
        model_config=trainer.state.built.config.to_json_string(),
        before=trainer.job.fence.check,
        after=lambda: None,
        notify=trainer.notices.add,
        device=trainer.device,
    )


def _make_record(trainer: Trainer, step: int) -> CheckpointRecord:
    progress, order = trainer.state.progress, trainer.order
    return CheckpointRecord(
        step=step,
        num_updates=step,
        num_tokens=0,
        tokens_read=count_tokens_read(order, progress.position),
        position=progress.position,
        order=order,
        global_batch_size=trainer.config.global_batch_size,
        num_rollbacks=0,
        loss=0.0,
        recent=(),
        world_size=1,
        zero_stage=trainer.job.placement.zero_stage,
        shapes=trainer.state.built.shapes,
        files={},
    )
