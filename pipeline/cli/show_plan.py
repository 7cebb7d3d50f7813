"""`concord plan`: what would be made and why, and what the trainings would take. Nothing is made."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.markup import escape

from cluster.placement import TooFew, describe_machines
from configs.cluster import ClusterConfig
from configs.load import Loaded, load, shipped
from configs.run import RunConfig
from configs.training import TrainConfig
from data_prep.manifests import TokenizedCorpus
from pipeline.estimate.estimate import Estimate, estimate
from pipeline.estimate.machines import lay_out
from pipeline.estimate.rows import describe_problem, estimate_rows
from pipeline.graph.plan import PlannedStep
from pipeline.graph.why import why_make
from pipeline.prepare import Prepared, check_pools, check_stages, needed_steps, prepare, vocab_size
from pipeline.store.artifact import load_artifact
from training.data.epochs import StreamEpochs, describe_epochs, plan_epochs

_FITS = {True: "fits", False: "does not fit", None: "not known whether it fits"}
_UNKNOWN = ": give `accelerator_memory_gib` under the pool's `machines`"


@dataclass(frozen=True)
class PlanLine:
    """What the plan says of one step."""

    step: PlannedStep
    action: str
    """`reuse`, `make` or `not needed`."""

    why: str
    """Why it is made; empty otherwise."""

    machines: str = ""
    estimate: Estimate | None = None
    problem: str = ""
    """Why it does not fit, and what to change; empty if it fits, or where that was not asked."""

    epochs: tuple[StreamEpochs, ...] = ()
    """How often a training that is to be made reads each stream; empty as long as its tokens are not made."""


def show_plan(loaded: Loaded[RunConfig], cluster: str | None, out: Console, *, as_json: bool) -> bool:
    """Print a line for each step: reuse, make and why, or not needed; with a cluster also what each training takes.

    Returns False if something to be made does not fit; True also where that is not known. Raises ConfigError and
    UserError as `prepare` does.
    """
    machines = None if cluster is None else load(shipped("clusters", cluster), ClusterConfig).config
    ready = prepare(loaded, machines.storage if machines else None)
    if machines is not None and cluster is not None:
        check_pools(ready, machines, cluster)
    check_stages(ready)
    lines = plan_lines(ready, machines)
    fits = _fit(lines)
    if as_json:
        print(json.dumps(_to_json(ready, lines, cluster=cluster, fits=fits), indent=2))
        return fits is not False
    for line in lines:
        for text in _render(line):
            out.print(text)
    words = [line.action for line in lines]
    out.print(f"{words.count('make')} to make, {words.count('reuse')} to reuse, in {escape(str(ready.store))}")
    if machines is not None:
        out.print(f"{_FITS[fits]} on cluster {escape(str(cluster))}{_UNKNOWN if fits is None else ''}")
    return fits is not False


def _fit(lines: list[PlanLine]) -> bool | None:
    """Return whether all that is to be made fits; None if all that is known fits, but not all is known."""
    if any(line.problem for line in lines):
        return False
    return None if any(line.estimate is not None and line.estimate.fits is None for line in lines) else True


def plan_lines(ready: Prepared, cluster: ClusterConfig | None) -> list[PlanLine]:
    """Return what is to be done about each step, in the order of the plan."""
    needed = needed_steps(ready)
    made = {name for name, word in needed.items() if word == "make"}
    fingerprints = {name: step.fingerprint for name, step in ready.plan.steps.items()}
    lines = []
    for name, step in ready.plan.steps.items():
        action = needed.get(name, "not needed")
        why = why_make(step, ready.store, made_anew=made, fingerprints=fingerprints) if name in made else ""
        line = PlanLine(step, action, why)
        if name in made and isinstance(step.config, TrainConfig):
            line = replace(line, epochs=_epochs(step.config, step, ready))
            line = _estimated(line, ready, cluster) if cluster is not None else line
        lines.append(line)
    return lines


def _epochs(config: TrainConfig, step: PlannedStep, ready: Prepared) -> tuple[StreamEpochs, ...]:
    tokens = load_artifact(ready.store / ready.plan.steps[step.inputs["tokens"]].artifact, TokenizedCorpus)
    return tuple(plan_epochs(tokens, config)) if tokens else ()


def _estimated(line: PlanLine, ready: Prepared, cluster: ClusterConfig) -> PlanLine:
    step = line.step
    assert isinstance(step.config, TrainConfig)
    try:
        nodes, placement = lay_out(cluster, step.pool)
    except TooFew as error:
        return replace(line, problem=str(error))
    found = estimate(
        step.config,
        vocab_size=vocab_size(step, ready),
        pool=cluster.pools[step.pool],
        nodes=nodes,
        placement=placement,
        store=ready.store if "://" not in ready.loaded.config.store else None,
        is_their_disk=cluster.pools[step.pool].machines is None and cluster.launcher.kind == "local",
    )
    return replace(line, machines=describe_machines(nodes), estimate=found, problem=describe_problem(found))


def _render(line: PlanLine) -> Iterator[str]:
    step = line.step
    made_from = f" <- {', '.join(step.inputs.values())}" if step.inputs else ""
    why = f"  {escape(line.why)}" if line.why else ""
    yield f"{line.action:<10}  [bold]{step.name}[/]{made_from}  [dim]{step.artifact}[/]{why}"
    if line.epochs:
        yield f"  [dim]{'epochs':<13}[/]  {escape(describe_epochs(line.epochs))}"
    if line.estimate is not None:
        assert isinstance(step.config, TrainConfig)
        rows = [("machines", line.machines), *estimate_rows(line.estimate, step.config)]
        yield from (f"  [dim]{name:<13}[/]  {escape(text)}" for name, text in rows)
    if line.problem:
        yield f"  [bold red]does not fit[/]   {escape(line.problem)}"


def _to_json(ready: Prepared, lines: list[PlanLine], *, cluster: str | None, fits: bool | None) -> dict[str, Any]:
    return {
        "store": str(ready.store),
        "cluster": cluster,
        "fits": fits if cluster is not None else None,
        "outputs": list(ready.plan.outputs),
        "steps": [_line_to_json(line) for line in lines],
    }


def _line_to_json(line: PlanLine) -> dict[str, Any]:
    step = line.step
    result: dict[str, Any] = {
        "name": step.name,
        "stage": step.stage,
        "artifact": step.artifact,
        "inputs": dict(step.inputs),
        "action": line.action,
        "why": line.why,
        "problem": line.problem,
        "machines": line.machines,
        "epochs": {
            one.stream: {"num_tokens": one.num_tokens, "tokens_read": one.tokens_read, "epochs": one.epochs}
            for one in line.epochs
        },
        "estimate": None,
    }
    if (found := line.estimate) is not None:
        shown = asdict(found)
        shown["model"] = {"num_parameters": found.model.num_parameters, "built": found.model.built}
        shown["placement"] = {key: shown["placement"][key] for key in ("num_ranks", "device", "cpus_per_rank")}
        for name, choice in (("chosen", found.fit.chosen), ("runner_up", found.fit.runner_up)):
            if choice is not None:
                shown["fit"][name]["memory"] |= {"total": choice.memory.total}
        result["estimate"] = shown
    return result
