"""How far a step is: done, being made and by whom, begun, or not begun; and how a training is going."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from configs.training import TrainConfig
from pipeline.artifact import ATTEMPTS, load_artifact
from pipeline.lease import holder
from pipeline.lineage import duration
from pipeline.plan import PlannedStep
from pipeline.stages import STAGES
from training.attempts import Attempt, Goodput, goodput, read_attempts, step_seconds
from training.flops import peak_flops
from training.manifests import counted
from training.metrics import FILE, StepMetrics, read_metrics
from training.records import CHECKPOINT_FILE
from training.summary import seconds_by_part

_RECENT_STEPS = 20
"""Speed, time by part and time left are over so many steps."""


def step_state(step: PlannedStep, store: Path) -> tuple[str, list[tuple[str, str]]]:
    """The state in a few words, and names and values that say more of a training that is not done."""
    path = store / step.artifact
    artifact = load_artifact(path, STAGES[step.stage].output)
    if artifact is not None:
        return f"done: {artifact.manifest.summary()}", []
    who = holder(store, step.artifact)
    rows = training_rows(path, step.config, running=who is not None) if isinstance(step.config, TrainConfig) else []
    if who is not None:
        return f"being made by {who}", rows
    return "begun and stopped" if (path / ATTEMPTS).exists() else "not begun", rows


def training_rows(directory: Path, config: TrainConfig, *, running: bool) -> list[tuple[str, str]]:
    """How a training is going, from what it has written so far; nothing before its first step."""
    metrics = read_metrics(directory / FILE)
    if not metrics:
        return []
    last, recent, events = metrics[-1], metrics[-_RECENT_STEPS:], read_attempts(directory)
    newest = next((event for event in reversed(events) if isinstance(event, Attempt)), None)
    device = newest.device if newest else "the device"
    speed = median(step.tokens_per_second for step in recent)
    rows = [
        ("step", _progress(last.step, config.num_steps, recent if running else [])),
        ("loss", f"{last.loss:.3f} nats a token, {last.bits_per_byte:.3f} bits per byte"),
        ("learning rate", f"{last.learning_rate:.3g}"),
        ("speed", f"{speed:,.0f} tokens/s, {describe_mfu(last.mfu, device)}"),
        *([("ranks", describe_ranks(newest))] if newest else []),
        ("memory", f"{last.memory_bytes / 2**30:.2f} GiB on rank 0"),
        ("time", f"{_parts(recent)} over {counted(len(recent), 'step')}"),
        ("goodput", describe_goodput(goodput(events, metrics))),
        ("checkpoint", _newest_checkpoint(directory)),
    ]
    if last.num_skipped or last.num_rollbacks:
        troubles = f"{counted(last.num_skipped, 'step')} skipped, {counted(last.num_rollbacks, 'roll-back')}"
        rows.append(("trouble", troubles))
    return rows


def describe_ranks(attempt: Attempt) -> str:
    """How many, of which device, in which ZeRO stage, and how many on each host."""
    counts = Counter(attempt.hosts)
    hosts = ", ".join(host if count == 1 else f"{count} on {host}" for host, count in counts.items())
    return f"{counted(attempt.world_size, 'rank')} of {attempt.device}, ZeRO stage {attempt.zero_stage}: {hosts}"


def describe_mfu(value: float | None, device: str) -> str:
    """The MFU, or why it is not known."""
    if value is not None:
        return f"MFU {value:.1%}"
    if peak_flops(device) is None:
        return f"MFU unknown: {device} is not in the table"
    return "MFU unknown: the FLOPs of this architecture are not"


def describe_goodput(whole: Goodput) -> str:
    """The share of the time that went into steps that stand, with restarts if there were any."""
    if not whole.num_restarts:
        return f"{whole.fraction:.1%}"
    restarts, lost = counted(whole.num_restarts, "restart"), counted(whole.lost_steps, "step")
    return f"{whole.fraction:.1%}, with {restarts} and {lost} taken again"


def _progress(step: int, num_steps: int, recent: Sequence[StepMetrics]) -> str:
    """`recent` are the steps that the time left is judged by; without any it is not said."""
    done = f"{step:,} of {num_steps:,}"
    if not recent:
        return done
    return f"{done}, {duration((num_steps - step) * fmean(map(step_seconds, recent)))} left"


def _parts(metrics: Sequence[StepMetrics]) -> str:
    """Shares of the time by part, the largest first."""
    seconds = seconds_by_part(metrics)
    whole = sum(seconds.values()) or 1.0
    ordered = sorted(seconds.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {value / whole:.0%}" for name, value in ordered)


def _newest_checkpoint(directory: Path) -> str:
    # By name alone: training/checkpoint.py, which would read them, loads torch.
    steps = [
        int(path.parent.name.removeprefix("step-")) for path in directory.glob(f"checkpoints/step-*/{CHECKPOINT_FILE}")
    ]
    return f"step {max(steps):,}" if steps else "none yet"
