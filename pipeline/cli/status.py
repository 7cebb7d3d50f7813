"""How far a step is: done, being made and by whom, begun, or not begun; and how a training is going."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from pydantic import ValidationError

from cluster.leases.lease import store_holder
from cluster.storage.objects import Objects
from configs.base import Manifest, UserError
from configs.training import TrainConfig
from pipeline.graph.plan import PlannedStep
from pipeline.graph.stages import STAGES
from pipeline.store.artifact import ATTEMPTS, RECORD, load_artifact, parse_record
from pipeline.store.lineage import duration
from pipeline.store.remote import UNFINISHED
from training.log.attempts_file import Attempt, Goodput, Session, goodput, read_attempts, step_seconds
from training.log.metrics_file import FILE, StepMetrics, read_metrics
from training.log.summary import seconds_by_part
from training.manifests import counted
from training.records import CHECKPOINT_FILE
from training.sizing.flops import peak_flops

_RECENT_STEPS = 20
"""Speed, time by part and time left are over so many steps."""


def step_state(step: PlannedStep, store: Path, remote: Objects | None = None) -> tuple[str, list[tuple[str, str]]]:
    """The state in a few words, and names and values that say more of a training that is not done.

    `store` is a directory; of a store that is a URL its place on this machine, and `remote` the store.
    """
    path = store / step.artifact
    artifact = load_artifact(path, STAGES[step.stage].output)
    if artifact is not None:
        return f"done: {artifact.manifest.summary()}", []
    if remote is not None and (there := _manifest_in(remote, step)) is not None:
        return f"done: {there.summary()}", []
    who = store_holder(remote, store, step.artifact)
    rows = training_rows(path, step.config, running=who is not None) if isinstance(step.config, TrainConfig) else []
    if who is not None:
        return f"being made by {who}", rows
    return "begun and stopped" if _is_begun(path, remote) else "not begun", rows


def training_rows(directory: Path, config: TrainConfig, *, running: bool) -> list[tuple[str, str]]:
    """How a training is going, from what it has written so far; nothing before its first step."""
    metrics, events = read_metrics(directory / FILE), read_attempts(directory)
    if running and events and isinstance(events[-1], Session):  # what no checkpoint holds is about to be dropped
        metrics = [step for step in metrics if step.step <= _newest_checkpoint(directory)]
    if not metrics:
        return []
    last, recent = metrics[-1], metrics[-_RECENT_STEPS:]
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
        ("checkpoint", f"step {newest_step:,}" if (newest_step := _newest_checkpoint(directory)) else "none yet"),
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


def _newest_checkpoint(directory: Path) -> int:
    """Its step; 0 if there is none."""
    # By name alone: training/checkpoint/directory.py, which would read them, loads torch.
    steps = [
        int(path.parent.name.removeprefix("step-")) for path in directory.glob(f"checkpoints/step-*/{CHECKPOINT_FILE}")
    ]
    return max(steps, default=0)


def _manifest_in(remote: Objects, step: PlannedStep) -> Manifest | None:
    """What a store that is a URL has of a step's artifact; None if it is not finished there."""
    name = f"{step.artifact}/{RECORD}"
    if (data := remote.read(name)) is None:
        return None
    try:
        return STAGES[step.stage].output.model_validate_json(json.dumps(parse_record(data, where=name).manifest))
    except ValidationError as error:
        raise UserError(
            f"{name} in the store is not a record this version of Concord can read ({error.error_count()} problems); "
            "use the version that made it"
        ) from error


def _is_begun(path: Path, remote: Objects | None) -> bool:
    if (path / ATTEMPTS).exists():
        return True
    return remote is not None and remote.size(f"{UNFINISHED}/{path.name}/{ATTEMPTS}") is not None
