"""`concord status RECIPE`: how far each step is, and how a training that is not done is going."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from cluster.devices import peak_flops
from cluster.leases.lease import store_holder
from cluster.storage.objects import ObjectStore
from configs.base import GIB, Manifest, UserError
from configs.cluster import StorageConfig
from configs.training import TrainConfig
from pipeline.graph.plan import PlannedStep
from pipeline.prepare import prepare
from pipeline.stages import STAGES
from pipeline.store.artifact import BUILD_COUNT_FILE, RECORD, load_artifact, parse_record
from pipeline.store.lineage import duration
from pipeline.store.remote import UNFINISHED
from training.log.metrics_file import METRICS_FILE, StepMetrics, read_metrics
from training.log.sessions_file import (
    GangStart,
    Goodput,
    SessionStart,
    compute_goodput,
    read_session_events,
    step_seconds,
)
from training.log.summary import seconds_by_part
from training.manifests import counted
from training.records import CHECKPOINTS, newest_checkpoint

_RECENT_STEPS = 20
"""Speed, time by part and time left are taken over so many steps."""


def show_status(recipe: Path, overrides: tuple[str, ...], out: Console, *, work_dir: str | None = None) -> None:
    """Print a line for each step of a recipe, and below that of a training that is not done how it is going."""
    ready = prepare(recipe, overrides, None if work_dir is None else StorageConfig(work_dir=work_dir))
    remote = ready.remote.store if ready.remote else None
    for step in ready.plan.steps.values():
        state, rows = step_state(step, ready.store, remote)
        out.print(f"[bold]{step.name}[/]  {escape(state)}  [dim]{step.artifact}[/]")
        for name, value in rows:
            out.print(f"  [dim]{name:<13}[/]  {escape(value)}")


def step_state(step: PlannedStep, store: Path, remote: ObjectStore | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Return the state of a step in a few words, and rows of a name and a value for a training that is not done.

    `store` is the store's directory; for a store that is a URL it is the working copy, and `remote` is the store.
    """
    path = store / step.artifact
    artifact = load_artifact(path, STAGES[step.stage].output)
    if artifact is not None:
        return f"done: {artifact.manifest.summary()}", []
    if remote is not None and (manifest := _remote_manifest(remote, step)) is not None:
        return f"done: {manifest.summary()}", []
    who = store_holder(remote, store, step.artifact)
    rows = training_rows(path, step.config, running=who is not None) if isinstance(step.config, TrainConfig) else []
    if who is not None:
        return f"being made by {who}", rows
    return "begun and stopped" if _is_begun(path, remote) else "not begun", rows


def training_rows(directory: Path, config: TrainConfig, *, running: bool) -> list[tuple[str, str]]:
    """Return rows of a name and a value that say how a training is going, by its files; none before its first step."""
    metrics, events = read_metrics(directory / METRICS_FILE), read_session_events(directory)
    saved_step = newest_checkpoint(directory / CHECKPOINTS)
    if running and events and isinstance(events[-1], SessionStart):  # what no checkpoint holds is about to be dropped
        metrics = [step for step in metrics if step.step <= (saved_step or 0)]
    if not metrics:
        return []
    last, recent = metrics[-1], metrics[-_RECENT_STEPS:]
    newest = next((event for event in reversed(events) if isinstance(event, GangStart)), None)
    device = newest.device if newest else "the device"
    speed = median(step.tokens_per_second for step in recent)
    rows = [
        ("step", _progress(last.step, config.num_steps, recent if running else [])),
        ("loss", f"{last.loss:.3f} nats a token, {last.bits_per_byte:.3f} bits per byte"),
        ("learning rate", f"{last.learning_rate:.3g}"),
        ("speed", f"{speed:,.0f} tokens/s, {describe_mfu(last.mfu, device)}"),
        *([("ranks", describe_ranks(newest))] if newest else []),
        ("memory", f"{last.memory_bytes / GIB:.2f} GiB on rank 0"),
        ("time", f"{_parts(recent)} over {counted(len(recent), 'step')}"),
        ("goodput", describe_goodput(compute_goodput(events, metrics))),
        ("checkpoint", f"step {saved_step:,}" if saved_step else "none yet"),
    ]
    if last.num_skipped or last.num_rollbacks:
        troubles = f"{counted(last.num_skipped, 'step')} skipped, {counted(last.num_rollbacks, 'roll-back')}"
        rows.append(("trouble", troubles))
    return rows


def describe_ranks(start: GangStart) -> str:
    """Return how many ranks there are, of which device, in which ZeRO stage, and how many on each host."""
    counts = Counter(start.hosts)
    hosts = ", ".join(host if count == 1 else f"{count} on {host}" for host, count in counts.items())
    return f"{counted(start.world_size, 'rank')} of {start.device}, ZeRO stage {start.zero_stage}: {hosts}"


def describe_mfu(value: float | None, device: str) -> str:
    """Return the model FLOPs utilisation in words, or why it is not known."""
    if value is not None:
        return f"MFU {value:.1%}"
    if peak_flops(device) is None:
        return f"MFU unknown: {device} is not in the table"
    return "MFU unknown: the FLOPs of this architecture are not"


def describe_goodput(whole: Goodput) -> str:
    """Return the share of the time that went into steps that count, with restarts if there were any."""
    if not whole.num_restarts:
        return f"{whole.fraction:.1%}"
    restarts, lost = counted(whole.num_restarts, "restart"), counted(whole.lost_steps, "step")
    return f"{whole.fraction:.1%}, with {restarts} and {lost} taken again"


def _progress(step: int, num_steps: int, recent: Sequence[StepMetrics]) -> str:
    """Return the steps done and, estimated by the `recent` ones if there are any, the time left."""
    done = f"{step:,} of {num_steps:,}"
    if not recent:
        return done
    return f"{done}, {duration((num_steps - step) * fmean(map(step_seconds, recent)))} left"


def _parts(metrics: Sequence[StepMetrics]) -> str:
    """Return the shares of the time by part, the largest first."""
    seconds = seconds_by_part(metrics)
    whole = sum(seconds.values()) or 1.0
    ordered = sorted(seconds.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {value / whole:.0%}" for name, value in ordered)


def _remote_manifest(remote: ObjectStore, step: PlannedStep) -> Manifest | None:
    """Return the manifest of a step's artifact in a store that is a URL; None if it is not finished there."""
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


def _is_begun(path: Path, remote: ObjectStore | None) -> bool:
    if (path / BUILD_COUNT_FILE).exists():
        return True
    return remote is not None and remote.size(f"{UNFINISHED}/{path.name}/{BUILD_COUNT_FILE}") is not None
