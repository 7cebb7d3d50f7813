"""Functions that ranks run in tests of training, and readers of what they leave on disk."""

import errno
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from cluster.executor import Rank
from training.checkpoint import rank_file
from training.checkpoint.async_save import Saver
from training.checkpoint.directory import load_weights
from training.job import Job
from training.log.metrics_file import METRICS_FILE, StepMetrics, read_metrics
from training.loop import stop_requests
from training.loop import trainer as trainer_module
from training.loop.step import Stepper
from training.loop.stop_requests import RequestPoller
from training.loop.trainer import Trainer, train_rank
from training.loop.watchdog import Watchdog
from training.manifests import TrainedModel
from training.records import CheckpointRecord
from training.zero.fragments import MODEL_PREFIX, owned_fragments
from training.zero.process_group import join_process_group, leave_process_group

State = dict[str, dict[str, npt.NDArray[np.float32]]]
"""Kind -> parameter -> all of its elements."""


def weights(job: Job, step: int) -> dict[str, torch.Tensor]:
    return load_weights(job.out / "checkpoints" / f"step-{step:08d}")


def lines(job: Job) -> list[StepMetrics]:
    return read_metrics(job.out / METRICS_FILE)


def trajectory(job: Job) -> list[tuple[int, float, float]]:
    return [(line.step, line.loss, line.gradient_norm) for line in lines(job)]


def trainer(rank: Rank, job: Job) -> Trainer:
    watchdog = Watchdog(job.out, rank, timeout_seconds=60)
    often = job.cadence.save_every_seconds
    requests = RequestPoller(job.out, watches_files=rank.index == 0, save_every_seconds=often)
    return Trainer(rank, job, torch.device("cpu"), watchdog, requests)


def train_all(rank: Rank, jobs: list[Job]) -> None:
    join_process_group(rank, timeout_seconds=60)
    for job in jobs:
        trainer(rank, job).run()
    leave_process_group()


def train_compiled(rank: Rank, jobs: list[Job]) -> None:
    """Train one job after another, each as a fresh process would compile it, without making C++ of the graphs."""
    original = torch.compile
    torch.compile = partial(original, backend="aot_eager")
    join_process_group(rank, timeout_seconds=60)
    for job in jobs:
        torch._dynamo.reset()
        trainer(rank, job).run()
    leave_process_group()


def train_and_summarise(rank: Rank, jobs: list[Job]) -> list[TrainedModel]:
    """Train one job after another, looking for requests at every step; their manifests."""
    stop_requests.SECONDS_BETWEEN_POLLS = 0.0
    join_process_group(rank, timeout_seconds=60)
    models = [trainer(rank, job).run() for job in jobs]
    leave_process_group()
    return [model for model in models if model]


def before_step(step: int, do: Callable[[Rank], None]) -> None:
    """Have a rank do something when it is to take optimizer step `step`, from 0, for the first time."""
    original, seen = Stepper.run_step, [0]

    def run_step(self: Any, *arguments: Any, **named: Any) -> Any:
        if seen[0] == step:
            do(self._rank)
        seen[0] += 1
        return original(self, *arguments, **named)

    Stepper.run_step = run_step  # type: ignore[method-assign]


def train_and_die(rank: Rank, job: Job, step: int) -> None:
    """Rank 1 is killed before step `step`, when the checkpoint under way has its name."""

    def die(own: Rank) -> None:
        while own.index == 1:
            if not list(job.out.glob("checkpoints/.step-*")):
                os.kill(os.getpid(), signal.SIGKILL)

    before_step(step, die)
    train_rank(rank, job)


def train_and_be_told_to_stop(rank: Rank, job: Job, step: int, number: int) -> str:
    """Rank 1 gets a signal before step `step`; what the ranks raise."""
    before_step(step, lambda own: os.kill(os.getpid(), number) if own.index == 1 else None)
    try:
        train_rank(rank, job)
    except Exception as error:
        return f"{type(error).__name__} {getattr(error, 'exit_code', None)}: {error}"
    return "finished"


def note_saves() -> None:
    """Write down the steps whose checkpoints are begun, in checkpoints/begun.txt."""
    begin = Saver.begin

    def begin_and_note(self: Saver, record: CheckpointRecord, *arguments: Any) -> None:
        if self._rank == 0:
            self._root.mkdir(exist_ok=True)
            with (self._root / "begun.txt").open("a") as file:
                print(record.step, file=file)
        begin(self, record, *arguments)

    Saver.begin = begin_and_note  # type: ignore[method-assign]


def train_and_find(rank: Rank, job: Job, step: int, path: Path, text: str) -> str:
    """A file appears before step `step`, and rank 0 looks at every step; what the ranks raise.

    The steps whose checkpoints are begun are in checkpoints/begun.txt.
    """
    stop_requests.SECONDS_BETWEEN_POLLS = 0.0
    note_saves()

    def write(own: Rank) -> None:
        if own.index == 0:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    before_step(step, write)
    try:
        train_rank(rank, job)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "finished"


def train_and_hang(rank: Rank, job: Job, step: int) -> None:
    """Rank 1 sleeps instead of taking step `step`."""

    def sleep_for_ever(own: Rank) -> None:
        if own.index == 1:
            time.sleep(1000)

    before_step(step, sleep_for_ever)
    train_rank(rank, job)


def train_with_a_collective_too_many(rank: Rank, job: Job, step: int) -> None:
    """Rank 1 waits for a collective that rank 0 never joins."""
    before_step(step, lambda own: torch.distributed.barrier() if own.index == 1 else None)
    train_rank(rank, job)


def train_with_poison(rank: Rank, jobs: list[Job], poison: dict[int, str]) -> None:
    """Train one job after another, each with trouble in the steps whose data begins at the places in `poison`.

    The trouble is a `loss` or a `gradient` that is not finite, or a loss that is too large, a `spike`. Rank 0 looks for
    requests at every step.
    """
    stop_requests.SECONDS_BETWEEN_POLLS = 0.0
    note_saves()
    from training.network.packed_lm import PackedLM

    original, forward, now = Stepper.run_step, PackedLM.forward, [""]

    def run_step(self: Any, step_input: Any, *arguments: Any, **named: Any) -> Any:
        now[0] = poisoned.get(_content(step_input.batch), "")
        return original(self, step_input, *arguments, **named)

    def poisoned_forward(self: Any, *arguments: Any, **named: Any) -> Any:
        result = forward(self, *arguments, **named)
        if not now[0] or rank.index or not self.training:  # a validation is no step
            return result
        if now[0] == "gradient":
            result.objective.register_hook(lambda gradient: gradient * float("nan"))
            return result
        return result._replace(row_nats=result.row_nats * (float("inf") if now[0] == "loss" else 50.0))

    Stepper.run_step, PackedLM.forward = run_step, poisoned_forward  # type: ignore[method-assign, assignment]
    join_process_group(rank, timeout_seconds=60)
    try:
        for job in jobs:
            subject = trainer(rank, job)
            size = job.config.global_batch_size
            poisoned = {
                _content(subject.batches.batch((range(place, place + size),))): what for place, what in poison.items()
            }
            subject.run()
    finally:
        leave_process_group()


def _content(batch: Any) -> bytes:
    samples: bytes = batch.stream.tobytes() + batch.index.tobytes()
    return samples


def train_and_keep_gradients(rank: Rank, jobs: list[Job]) -> list[dict[str, npt.NDArray[np.float64]]]:
    """Train one job after another; the sum of this rank's own gradients in each, by parameter, in fp64."""
    join_process_group(rank, timeout_seconds=60)
    kept = []
    for job in jobs:
        subject, sums = trainer(rank, job), {}
        for full_name, parameter in subject.state.engine.module.named_parameters():
            name = full_name.removeprefix(MODEL_PREFIX)
            sums[name] = np.zeros(subject.state.built.shapes[name])

            def keep(gradient: torch.Tensor, total: npt.NDArray[np.float64] = sums[name]) -> None:
                total += gradient.double().numpy()

            parameter.register_hook(keep)
        subject.run()
        kept.append(sums)
    leave_process_group()
    return kept


def first_gradient(job: Job) -> dict[str, npt.NDArray[np.float64]]:
    """The global gradient of a training of one step, flat and by parameter, from AdamW's first moment."""
    moments = state_on_disk(job.out / "checkpoints" / "step-00000001")["exp_avg"]
    return {name: values.astype(np.float64) / (1 - job.config.optimizer.beta1) for name, values in moments.items()}


def train_on_a_full_disk(rank: Rank, job: Job, step: int) -> TrainedModel | None:
    """While the checkpoint of step `step` is written, rank 1 has no space left."""
    original = rank_file.write

    def write(prefix: Path, *arguments: Any, **named: Any) -> None:
        if f"step-{step:08d}" in str(prefix) and rank.index == 1:
            prefix.with_suffix(".safetensors").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(prefix))
        original(prefix, *arguments, **named)

    rank_file.write = write
    return train_rank(rank, job)


def fail_on_a_full_disk(rank: Rank, job: Job, step: int) -> str:
    """Return what the rank raised: its last save, of step `step`, had no space left on rank 1."""
    try:
        train_on_a_full_disk(rank, job, step)
    except OSError as error:
        return f"{type(error).__name__} {error.errno} {error}"
    return "nothing"


def train_while_the_last_save_is_refused(rank: Rank, job: Job, step: int, number: int) -> TrainedModel | None:
    """Rank 1 is refused twice what it writes of the checkpoint of step `step`, with this errno."""
    trainer_module.SECONDS_BETWEEN_LAST_SAVES = 0.1
    original, refused = rank_file.write, [0]

    def write(prefix: Path, *arguments: Any, **named: Any) -> None:
        if f"step-{step:08d}" in str(prefix) and rank.index == 1 and refused[0] < 2:
            refused[0] += 1
            raise OSError(number, os.strerror(number), str(prefix))
        original(prefix, *arguments, **named)

    rank_file.write = write
    return train_rank(rank, job)


def state_held(rank: Rank, job: Job) -> list[tuple[str, str, int, npt.NDArray[np.float32]]]:
    """What the rank has once it has gone on from the newest checkpoint: (kind, name, offset, elements)."""
    return states_held(rank, [job])[0]


def states_held(rank: Rank, jobs: list[Job]) -> list[list[tuple[str, str, int, npt.NDArray[np.float32]]]]:
    """What the rank has at the start of each job: (kind, name, offset, elements)."""
    join_process_group(rank, timeout_seconds=60)
    held = [
        [
            (kind, fragment.name, fragment.offset, tensor.float().numpy().copy())
            for fragment in owned_fragments(trainer(rank, job).state.engine)
            for kind, tensor in fragment.tensors.items()
        ]
        for job in jobs
    ]
    leave_process_group()
    return held


def put_together(pieces: list[tuple[str, str, int, npt.NDArray[np.float32]]]) -> State:
    """The whole state; each element must be there once."""
    state: State = {}
    for kind, name, offset, values in sorted(pieces, key=lambda piece: piece[:3]):
        whole = state.setdefault(kind, {}).get(name, np.empty(0, np.float32))
        assert len(whole) == offset, (kind, name, offset)
        state[kind][name] = np.concatenate([whole, values])
    return state


def state_on_disk(directory: Path) -> State:
    """By the safetensors library, not by our own reader."""
    pieces = []
    for path in directory.glob("*.safetensors"):
        for key, tensor in load_file(path).items():
            pieces.append((*rank_file.split_key(key), tensor.float().numpy()))
    return put_together(pieces)
