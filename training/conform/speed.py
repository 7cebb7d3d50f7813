"""Speed of a training step: against a bare loop in plain PyTorch, and against a product of matrices; and compiled."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from cluster.devices import peak_flops
from configs.base import UserError
from training.accelerator import device_name
from training.conform.bare_loop import BareLoop
from training.conform.record import Check, judged
from training.conform.scale import Trial
from training.conform.synthetic_job import Bench, make_job, open_trainer, take_step
from training.conform.timing import matmul_flops, measure_seconds
from training.data.prefetch import StepInput
from training.loop.trainer import Trainer
from training.network.compile import count_graphs
from training.sizing.flops import flops_per_token, mfu

WARM_UP_STEPS = 2
_TURN = 4
"""Steps that one system takes before the other's turn: so both meet the same load of a machine that others use."""


@dataclass(frozen=True)
class _Measured:
    """What steps of one training took."""

    seconds: float
    """Median of a step."""

    bare_seconds: float | None
    parts: dict[str, float]
    """Seconds of all timed steps by part."""

    flops_per_token: float | None
    attention: str
    num_graphs: int
    """Graphs compiled in the first steps."""

    num_late_graphs: int
    """Graphs compiled in those that were timed."""


def check_speed(bench: Bench) -> Iterator[Check]:
    """Time steps of the large model."""
    yield from measure_speed(bench, bench.scale.large, "step", compiled=False)


def measure_speed(bench: Bench, trial: Trial, name: str, *, compiled: bool) -> Iterator[Check]:
    """Time steps of a trial, and of a bare loop in turns with them; `name` begins the names of the checks."""
    found = _measure(bench, trial, compiled=compiled, with_bare=True)
    assert found.bare_seconds is not None
    speed = trial.tokens_per_step / found.seconds
    dtype = torch.bfloat16 if trial.precision == "bf16" else torch.float32
    product = matmul_flops(bench.scale.matmul_size, dtype=dtype, device=bench.device)
    shape = f"{trial.rows * trial.passes} x {trial.sequence_length:,} tokens, {trial.precision}, {found.attention}"
    yield Check(name=f"{name} speed", value=speed, unit="tokens/s", detail=f"{found.seconds:.3f} s for {shape}")
    yield Check(
        name=f"{name} over bare loop",
        value=found.bare_seconds / found.seconds,
        detail=f"speed over that of plain PyTorch, {trial.tokens_per_step / found.bare_seconds:,.0f} tokens/s",
    )
    peak = peak_flops(device_name(bench.device))
    used = mfu(speed, flops_per_token=found.flops_per_token, peak=peak)
    yield Check(
        name=f"{name} MFU",
        value=None if used is None else 100 * used,
        unit="%",
        detail="of the data sheet's peak in bf16" if used is not None else "the peak of this device is not known",
    )
    yield Check(
        name=f"{trial.precision} matmul",
        value=product / 1e12,
        unit="TFLOP/s",
        detail=f"side {bench.scale.matmul_size:,}",
    )
    share = None if found.flops_per_token is None else speed * found.flops_per_token / product
    yield Check(
        name=f"{name} over matmul",
        value=None if share is None else 100 * share,
        unit="%",
        detail="FLOP/s of the model over those of a bare product",
    )
    yield from _shares(name, found.parts)


def _shares(name: str, parts: dict[str, float]) -> Iterator[Check]:
    total = sum(parts.values())
    said = ", ".join(f"{part} {100 * value / total:.1f}%" for part, value in sorted(parts.items()))
    yield Check(name=f"{name} data share", value=100 * parts.get("data", 0.0) / total, unit="%", detail=said)


def check_compile(bench: Bench) -> Iterator[Check]:
    """Compile the layers of the large model: one graph for all of them, and none while steps go on."""
    trial = bench.scale.large
    eager = _measure(bench, trial, compiled=False, with_bare=False)
    try:
        found = _measure(bench, trial, compiled=True, with_bare=False)
    except UserError as error:  # no compiler, or a model that cannot be compiled
        yield Check(name="compile", detail=str(error))
        return
    yield judged("compile graphs", float(found.num_graphs), limit=1.0, detail="for all layers, in the first steps")
    yield judged("compile late graphs", float(found.num_late_graphs), limit=0.0, detail="while steps were timed")
    speed = trial.tokens_per_step / found.seconds
    yield Check(
        name="compile over eager", value=eager.seconds / found.seconds, detail=f"speed; compiled {speed:,.0f} tokens/s"
    )


def _measure(bench: Bench, trial: Trial, *, compiled: bool, with_bare: bool) -> _Measured:
    job = make_job(bench, trial, f"speed-{'compiled' if compiled else 'eager'}", compile=compiled)
    graphs = count_graphs()
    with open_trainer(bench, job) as trainer:
        built = trainer.state.built
        reader = _Reader(trainer)
        first = [reader.take_step() for _ in range(WARM_UP_STEPS)]
        num_graphs = count_graphs() - graphs
        bare = None
        if with_bare:
            attention = built.traits.attention
            bare = BareLoop(
                job.config, vocab_size=trial.vocab_size, attention=attention, device=bench.device, compiled=compiled
            )
            for step_input in first:
                bare.take_step(step_input)
        graphs = count_graphs()
        own, others, parts = _time_in_turns(bench, reader, bare, trial.num_steps)
        return _Measured(
            seconds=median(own),
            bare_seconds=median(others) if others else None,
            parts=parts,
            flops_per_token=flops_per_token(
                built.config.to_dict(), built.shapes, sequence_length=trial.sequence_length
            ),
            attention=built.traits.attention,
            num_graphs=num_graphs,
            num_late_graphs=count_graphs() - graphs,
        )


class _Reader:
    """Takes the steps of a trainer in order, with the reading of their data."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self._position = trainer, trainer.state.progress.position

    def take_step(self) -> StepInput:
        """Read the next step's input, take the step, and return the input."""
        with self.trainer.stopwatch.part("data"):
            step_input = self.trainer.prefetcher.take(self._position, is_last=False)
        self._position = step_input.position
        take_step(self.trainer, step_input)
        return step_input


def _time_in_turns(
    bench: Bench, reader: _Reader, bare: BareLoop | None, num_steps: int
) -> tuple[list[float], list[float], dict[str, float]]:
    """Return the seconds of each step of the trainer, of each of the bare loop, and those of the trainer by part."""
    own: list[float] = []
    others: list[float] = []
    parts: defaultdict[str, float] = defaultdict(float)
    stopwatch = reader.trainer.stopwatch
    while len(own) < num_steps:
        turn: list[StepInput] = []
        stopwatch.pop_seconds()  # the other's turn is no part of a step
        for _ in range(min(_TURN, num_steps - len(own))):
            own.append(measure_seconds(lambda: turn.append(reader.take_step()), bench.device))  # noqa: B023
            for part, seconds in stopwatch.pop_seconds().items():
                parts[part] += seconds
        if bare is not None:
            others += [measure_seconds(partial(bare.take_step, step_input), bench.device) for step_input in turn]
    return own, others, parts
