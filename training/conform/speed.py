"""Speed of a training step: against a bare loop in plain PyTorch, and against a product of matrices; and compiled."""

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
_MAX_SECONDS = 30.0
"""No turn begins after steps of so many seconds: a slow machine gets through, too."""

_TURN = 2
"""Steps of a turn. In turns both systems meet the same load of a machine that others use."""


@dataclass(frozen=True)
class _Measured:
    """What steps of one training took."""

    seconds: float
    """Median of a step."""

    bare_seconds: float
    parts: dict[str, float]
    """Seconds of the timed steps by part."""

    flops_per_token: float | None
    attention: str


def check_speed(bench: Bench) -> Iterator[Check]:
    """Time steps of the large model."""
    yield from measure_speed(bench, bench.scale.large, "step", compiled=False)


def measure_speed(bench: Bench, trial: Trial, name: str, *, compiled: bool) -> Iterator[Check]:
    """Time steps of a trial, and of a bare loop in turns with them; `name` begins the names of the checks."""
    found = _measure(bench, trial, compiled=compiled)
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
    trial, before = bench.scale.large, count_graphs()
    jobs = [make_job(bench, trial, f"compile-{compiled}", compile=compiled) for compiled in (True, False)]
    try:
        with open_trainer(bench, jobs[0]) as trainer, open_trainer(bench, jobs[1]) as eager_trainer:
            readers = _Reader(trainer), _Reader(eager_trainer)
            for reader in readers * WARM_UP_STEPS:
                reader.take_step()
            num_graphs, ready = count_graphs() - before, count_graphs()
            times = _time_in_turns(bench.device, [reader.take_step for reader in readers], trial.num_steps)
            num_late = count_graphs() - ready
    except UserError as error:  # no compiler, or a model that cannot be compiled
        yield Check(name="compile", detail=str(error))
        return
    yield judged("compile graphs", float(num_graphs), limit=1.0, detail="for all layers, in the first steps")
    yield judged("compile late graphs", float(num_late), limit=0.0, detail="while steps were timed")
    compiled, eager = map(median, times)
    speed = trial.tokens_per_step / compiled
    yield Check(name="compile over eager", value=eager / compiled, detail=f"speed; compiled {speed:,.0f} tokens/s")


def _measure(bench: Bench, trial: Trial, *, compiled: bool) -> _Measured:
    job = make_job(bench, trial, f"speed-{compiled}", compile=compiled)
    with open_trainer(bench, job) as trainer:
        built, reader = trainer.state.built, _Reader(trainer)
        bare = BareLoop(
            job.config,
            vocab_size=trial.vocab_size,
            attention=built.traits.attention,
            device=bench.device,
            compiled=compiled,
        )
        systems: list[Callable[[], object]] = [
            reader.take_step,
            lambda: bare.take_step(reader.inputs.popleft()),
        ]
        for system in systems * WARM_UP_STEPS:
            system()
        reader.parts.clear()
        own, others = _time_in_turns(bench.device, systems, trial.num_steps)
        flops = flops_per_token(built.config.to_dict(), built.shapes, sequence_length=trial.sequence_length)
        return _Measured(median(own), median(others), reader.parts, flops, built.traits.attention)


class _Reader:
    """Takes the steps of a trainer in order, with the reading of their data."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._position, self._step = trainer, trainer.state.progress.position, 0
        self.inputs: deque[StepInput] = deque()
        """Those of the steps that were taken."""
        self.parts: defaultdict[str, float] = defaultdict(float)
        """Seconds of the steps by part."""

    def take_step(self) -> None:
        """Read the next step's input, and take the step."""
        stopwatch = self._trainer.stopwatch
        stopwatch.pop_seconds()  # the time since the step before was the other's turn
        with stopwatch.part("data"):
            plans = self._trainer.balancer.plans
            step_input = self._trainer.prefetcher.take(self._position, plans, step=self._step, is_last=False)
        self._step += 1
        self._position = step_input.position
        take_step(self._trainer, step_input)
        self.inputs.append(step_input)
        for part, seconds in stopwatch.pop_seconds().items():
            self.parts[part] += seconds


def _time_in_turns(
    device: torch.device, systems: Sequence[Callable[[], object]], num_steps: int
) -> tuple[list[float], list[float]]:
    """Return the seconds of each step of two systems, which take so many steps, some in a turn; fewer if slow."""
    times: tuple[list[float], list[float]] = ([], [])
    while len(times[0]) < num_steps and sum(map(sum, times)) < _MAX_SECONDS:
        for system, own in zip(systems, times, strict=True):
            own += [measure_seconds(system, device) for _ in range(_TURN)]
    return times
