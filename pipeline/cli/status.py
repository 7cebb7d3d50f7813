"""`concord status` of steps and artifacts: how far each is, and how a training that is not done is going."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, median

from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from cluster.devices import peak_flops
from cluster.leases.lease import store_holder
from cluster.storage.objects import ObjectStore
from configs.base import GIB, Manifest, UserError
from configs.training.train import TrainConfig
from pipeline.cli.subject import ArtifactSubject, StepsSubject, planned_step
from pipeline.graph.plan import PlannedStep
from pipeline.stages import STAGES
from pipeline.store.artifact import BUILD_COUNT_FILE, RECORD, load_artifact, parse_record
from pipeline.store.lineage import duration, find_record
from pipeline.store.remote import UNFINISHED
from training.checkpoint.choice import find_best
from training.data.epochs import epochs_rows, read_epochs
from training.log.metrics_file import METRICS_FILE, StepMetrics, read_last_validated, read_recent_metrics
from training.log.sessions_file import (
    GangStart,
    Goodput,
    SessionStart,
    compute_goodput,
    describe_ranks,
    read_session_events,
    step_seconds,
)
from training.log.summary import seconds_by_part
from training.manifests import TrainedModel, counted
from training.records import CHECKPOINTS, directory_of, newest_checkpoint

_RECENT_LINES = 20
"""Speed, time by part and time left are taken over so many lines of the metrics."""


def show_steps(subject: StepsSubject, out: Console, *, as_json: bool) -> None:
    """Print a line for each step of a recipe, or for the one that was named; below it how a training is going."""
    steps = [subject.steps[name] for name in ([subject.step] if subject.step else subject.steps)]
    if as_json:
        print(json.dumps({"steps": steps_as_json(steps, subject.home, subject.remote)}))
        return
    for step in steps:
        for line in step_lines(step, subject.home, subject.remote):
            out.print(line)


def show_artifact(artifact: ArtifactSubject, out: Console, *, as_json: bool) -> None:
    """Print how far an artifact is: by its record, as the last run that makes it planned it, or by its files alone."""
    planned = None if artifact.is_finished else planned_step(artifact)
    step = planned or _guess_step(artifact)
    if as_json:
        print(json.dumps({"steps": steps_as_json([step], artifact.home, artifact.remote)}))
        return
    for line in step_lines(step, artifact.home, artifact.remote):
        out.print(line)


def step_lines(step: PlannedStep, store: Path, remote: ObjectStore | None) -> Iterator[str]:
    """Yield what is printed of a step, with rich's markup; the arguments are those of `step_state`."""
    state, rows = step_state(step, store, remote)
    yield f"[bold]{step.name}[/]  {escape(state)}  [dim]{step.artifact}[/]"
    for name, value in rows:
        yield f"  [dim]{name:<13}[/]  {escape(value)}"


def steps_as_json(steps: Iterable[PlannedStep], store: Path, remote: ObjectStore | None) -> dict[str, dict[str, str]]:
    """Return the state of each step by its name, for a program to read."""
    shown = {}
    for step in steps:
        state, rows = step_state(step, store, remote)
        shown[step.name] = {"artifact": step.artifact, "state": state} | dict(rows)
    return shown


def step_state(step: PlannedStep, store: Path, remote: ObjectStore | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Return the state of a step in a few words, and rows of a name and a value for a training: how often it read each
    stream, and as long as it is not done how it is going.

    `store` is the store's directory; for a store that is a URL it is the working copy, and `remote` is the store.
    """
    path = store / step.artifact
    artifact = load_artifact(path, STAGES[step.stage].output)
    if artifact is not None:
        made = artifact.manifest
        read = read_epochs(path / made.checkpoint) if isinstance(made, TrainedModel) else []
        return f"done: {made.summary()}", epochs_rows(read) if read else []
    if remote is not None and (manifest := _remote_manifest(remote, step)) is not None:
        return f"done: {manifest.summary()}", []
    who = store_holder(remote, store, step.artifact)
    rows = training_rows(path, _total_steps(step), running=who is not None) if step.stage == "train" else []
    if who is not None:
        return f"being made by {who}", rows
    return "begun and stopped" if _is_begun(path, remote) else "not begun", rows


def _total_steps(step: PlannedStep) -> int | None:
    """Return how many steps a training is to take; None where only its directory is known, and not its config."""
    config = step.config
    assert isinstance(config, TrainConfig)
    return None if config.num_steps is None and config.num_tokens is None else config.total_steps


def training_rows(directory: Path, num_steps: int | None, *, running: bool) -> list[tuple[str, str]]:
    """Return rows of a name and a value that say how a training is going, by its files; none before its first step.

    `num_steps` is how many it is to take, if that is known.
    """
    events, path = read_session_events(directory), directory / METRICS_FILE
    saved_step = newest_checkpoint(directory / CHECKPOINTS)
    # what no checkpoint holds is about to be dropped
    is_starting = running and bool(events) and isinstance(events[-1], SessionStart)
    recent = read_recent_metrics(path, up_to=(saved_step or 0) if is_starting else None, count=_RECENT_LINES)
    if not recent:
        return []
    last = recent[-1]
    newest = next((event for event in reversed(events) if isinstance(event, GangStart)), None)
    device = newest.device if newest else "the device"
    speed = median(step.tokens_per_second for step in recent)
    rows = [
        ("step", _progress(last.step, num_steps, recent if running else [])),
        ("loss", f"{last.loss:.3f} nats a token, {last.bits_per_byte:.3f} bits per byte"),
        *_held_out(directory),
        ("learning rate", f"{last.learning_rate:.3g}"),
        ("speed", f"{speed:,.0f} tokens/s, {describe_mfu(last.mfu, device)}"),
        *([("eta", f"{last.eta:.2f} of the speeds that the devices have each by themselves")] if last.eta else []),
        *([("ranks", describe_ranks(newest))] if newest else []),
        ("memory", f"{last.memory_bytes / GIB:.2f} GiB on rank 0"),
        ("time", f"{_parts(recent)} over {counted(sum(line.num_steps for line in recent), 'step')}"),
        ("goodput", describe_goodput(compute_goodput(events, last))),
        ("checkpoint", f"step {saved_step:,}" if saved_step else "none yet"),
        *_epochs(directory, saved_step),
    ]
    if last.num_skipped or last.num_rollbacks:
        troubles = f"{counted(last.num_skipped, 'step')} skipped, {counted(last.num_rollbacks, 'roll-back')}"
        rows.append(("trouble", troubles))
    return rows


def _held_out(directory: Path) -> list[tuple[str, str]]:
    """Return the newest validation, and which checkpoint has the lowest of its losses."""
    last = read_last_validated(directory / METRICS_FILE)
    if last is None or last.validation is None:
        return []
    best = find_best(directory / CHECKPOINTS)
    lowest = f"; best checkpoint: step {best.step:,}, {best.validation_loss:.3f}" if best else ""
    loss, bits = last.validation.loss, last.validation.bits_per_byte
    return [("held out", f"{loss:.3f} nats a token, {bits:.3f} bits per byte after step {last.step:,}{lowest}")]


def _epochs(directory: Path, saved_step: int | None) -> list[tuple[str, str]]:
    """Return how often each stream was read up to the newest checkpoint; nothing if that is gone by now."""
    if not saved_step:
        return []
    found = read_epochs(directory_of(directory / CHECKPOINTS, saved_step))
    if not found:
        return []
    (name, whole), *streams = epochs_rows(found)
    return [(name, f"{whole}, up to the checkpoint"), *streams]


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


def _guess_step(artifact: ArtifactSubject) -> PlannedStep:
    """Return the step of an artifact by its name, and by its record if it has one; its settings are not known.

    Raises UserError if this version has no such stage.
    """
    stage, _, digits = artifact.name.rpartition("-")
    if stage not in STAGES:
        raise UserError(
            f"{artifact.name} is of no stage that this version of Concord has; use the version that made it"
        )
    record = find_record(artifact.home, artifact.name, artifact.remote)
    config = STAGES[stage].config.model_construct()
    name = record.step if record else stage
    return PlannedStep(name, name, stage, 0, config, None, {}, "", digits)


def _progress(step: int, num_steps: int | None, recent: Sequence[StepMetrics]) -> str:
    """Return the steps done and, estimated by the `recent` ones if there are any, the time left."""
    done = f"{step:,}" + (f" of {num_steps:,}" if num_steps is not None else "")
    if num_steps is None or not recent:
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
