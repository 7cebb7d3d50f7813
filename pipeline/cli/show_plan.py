"""`concord plan`: what would be made and why, and what the trainings would take. Nothing is made."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape

from configs.cluster import ClusterConfig
from configs.load import Loaded, load, shipped
from configs.run import RunConfig
from configs.training.train import TrainConfig
from pipeline.estimate.rows import describe_range, estimate_rows
from pipeline.estimate.stage_time import (
    BYTES_PER_TOKEN,
)
from pipeline.estimate.whole_run import WholeRun, describe_whole, whole_run
from pipeline.graph.wiring import all_inputs
from pipeline.layout_checks import check_pool_settings
from pipeline.plan_lines import PlanLine, plan_lines
from pipeline.prepare import Prepared, check_pools, check_stages, describe_unused, prepare
from training.data.epochs import epochs_rows

_FITS = {True: "fits", False: "does not fit", None: "not known whether it fits"}
_UNKNOWN = ": give `accelerator_memory_gib` in the pool"


def show_plan(loaded: Loaded[RunConfig], cluster: str | None, out: Console, *, as_json: bool) -> bool:
    """Print a line for each step: reuse, make and why, or not needed; with a cluster also what each training takes.

    Returns False if something to be made does not fit; True also where that is not known. Raises ConfigError and
    UserError as `prepare` does.
    """
    told = None if cluster is None else load(shipped("clusters", cluster), ClusterConfig)
    machines = told.config if told else None
    ready = prepare(loaded, machines.storage if machines else None)
    if told is not None and cluster is not None:
        check_pools(ready, told.config, cluster)
    check_stages(ready)
    if told is not None:
        check_pool_settings(ready, told)
    lines = plan_lines(ready, machines)
    fits = _fit(lines)
    whole = _whole_run(lines, machines) if machines is not None else None
    unused = describe_unused(ready, machines) if machines is not None else []
    if as_json:
        shown = _to_json(ready, lines, cluster=cluster, fits=fits, whole=whole) | {"unused": unused}
        print(json.dumps(shown, indent=2))
        return fits is not False
    for line in lines:
        for text in _render(line):
            out.print(text)
    words = [line.action for line in lines]
    out.print(f"{words.count('make')} to make, {words.count('reuse')} to reuse, in {escape(str(ready.store))}")
    for text in [*(describe_whole(whole) if whole is not None else ()), *unused]:
        out.print(escape(text))
    if machines is not None:
        out.print(f"{_FITS[fits]} on cluster {escape(str(cluster))}{_UNKNOWN if fits is None else ''}")
    return fits is not False


def _fit(lines: list[PlanLine]) -> bool | None:
    """Return whether all that is to be made fits; None if all that is known fits, but not all is known."""
    if any(line.problem for line in lines):
        return False
    return None if any(line.estimate is not None and line.estimate.fits is None for line in lines) else True


def _whole_run(lines: list[PlanLine], cluster: ClusterConfig) -> WholeRun:
    times = {
        line.step.name: line.estimate.seconds if line.estimate else line.time.seconds if line.time else None
        for line in lines
        if line.action == "make"
    }
    return whole_run(times, cluster)


def _render(line: PlanLine) -> Iterator[str]:
    step = line.step
    names = all_inputs(step.inputs)
    made_from = f" <- {', '.join(names)}" if names else ""
    why = f"  {escape(line.why)}" if line.why else ""
    yield f"{line.action:<10}  [bold]{step.name}[/]{made_from}  [dim]{step.artifact}[/]{why}"
    for name, text in epochs_rows(line.epochs) if line.epochs else ():
        yield f"  [dim]{name:<13}[/]  {escape(text)}"
    if line.round_trip:
        yield f"  [dim]{'round trip':<13}[/]  {escape(line.round_trip)}"
    if line.expected_epochs is not None:
        assumed = f"at least, at {BYTES_PER_TOKEN:g} bytes a token; by stream once the tokens are made"
        yield f"  [dim]{'epochs':<13}[/]  {line.expected_epochs:,.2f} times all text {assumed}"
    if line.estimate is not None:
        assert isinstance(step.config, TrainConfig)
        rows = [("machines", line.machines), *estimate_rows(line.estimate, step.config)]
        yield from (f"  [dim]{name:<13}[/]  {escape(text)}" for name, text in rows)
    if line.time is not None:
        shown = line.time.source
        if line.time.seconds is not None:
            shown = f"{describe_range(line.time.seconds)} ({shown})"
        yield f"  [dim]{'time':<13}[/]  {escape(shown)}"
    if line.memory:
        yield f"  [dim]{'memory':<13}[/]  {escape(line.memory)}"
    if line.problem:
        yield f"  [bold red]does not fit[/]   {escape(line.problem)}"


def _to_json(
    ready: Prepared, lines: list[PlanLine], *, cluster: str | None, fits: bool | None, whole: WholeRun | None
) -> dict[str, Any]:
    return {
        "store": str(ready.store),
        "cluster": cluster,
        "fits": fits if cluster is not None else None,
        "outputs": list(ready.plan.outputs),
        "whole": asdict(whole) if whole is not None else None,
        "steps": [_line_to_json(line) for line in lines],
    }


def _line_to_json(line: PlanLine) -> dict[str, Any]:
    step = line.step
    result: dict[str, Any] = {
        "name": step.name,
        "stage": step.stage,
        "artifact": step.artifact,
        "inputs": {slot: given if isinstance(given, str) else list(given) for slot, given in step.inputs.items()},
        "action": line.action,
        "why": line.why,
        "problem": line.problem,
        "machines": line.machines,
        "time": asdict(line.time) if line.time is not None else None,
        "memory": line.memory,
        "epochs": {
            one.stream: {"num_tokens": one.num_tokens, "tokens_read": one.tokens_read, "epochs": one.epochs}
            for one in line.epochs
        },
        "round_trip": line.round_trip,
        "expected_epochs": line.expected_epochs,
        "estimate": None,
    }
    if (found := line.estimate) is not None:
        shown = asdict(found)
        shown["model"] = {"num_parameters": found.model.num_parameters, "built": found.model.built}
        shown["placement"] = {key: shown["placement"][key] for key in ("num_ranks", "device", "cpus_per_rank")}
        shown["fit"]["chosen"]["memory"] |= {"total": found.fit.chosen.memory.total}
        for one, other, speed in zip(
            shown["fit"]["runners_up"], found.fit.runners_up, shown.pop("alternatives"), strict=True
        ):
            one["choice"]["memory"] |= {"total": other.choice.memory.total}
            one["tokens_per_second"] = speed["tokens_per_second"]
        if found.members is None:
            del shown["members"]
        result["estimate"] = shown
    return result
