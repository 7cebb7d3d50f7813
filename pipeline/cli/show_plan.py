"""`concord plan`: what would be made and why, and what the trainings would take. Nothing is made."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from cluster.machines import Node
from cluster.placement import Placement, TooFew, describe_machines
from configs.base import Artifact, UserError
from configs.cluster import ClusterConfig
from configs.data import CleanConfig
from configs.evaluation import EvaluateConfig
from configs.load import Loaded, load, shipped
from configs.run import RunConfig
from configs.training.train import TrainConfig
from data_prep.manifests import CleanCorpus, TokenizedCorpus
from data_prep.tokens.join import join_tokens
from pipeline.estimate.estimate import Estimate, estimate
from pipeline.estimate.machines import lay_out
from pipeline.estimate.rows import describe_problem, describe_range, estimate_rows
from pipeline.estimate.stage_time import (
    BYTES_PER_TOKEN,
    StageTime,
    Work,
    clean_work,
    evaluate_time,
    stage_time,
    tokenize_work,
)
from pipeline.estimate.whole_run import WholeRun, describe_whole, whole_run
from pipeline.graph.plan import PlannedStep
from pipeline.graph.why import why_make
from pipeline.graph.wiring import all_inputs
from pipeline.layout_checks import check_pool_settings
from pipeline.prepare import Prepared, check_pools, check_stages, needed_steps, prepare, vocab_size
from pipeline.store.artifact import load_artifact
from training.data.epochs import StreamEpochs, epochs_rows, plan_epochs
from training.init.continued import steps_before

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

    time: StageTime | None = None
    """How long a step other than a training takes; None where that was not asked, or is not reckoned."""

    epochs: tuple[StreamEpochs, ...] = ()
    """How often a training that is to be made reads each stream; empty as long as its tokens are not made."""

    expected_epochs: float | None = None
    """How often it reads all text, by the size of that, as long as its tokens are not made; None where it is not known.
    """


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
    if as_json:
        print(json.dumps(_to_json(ready, lines, cluster=cluster, fits=fits, whole=whole), indent=2))
        return fits is not False
    for line in lines:
        for text in _render(line):
            out.print(text)
    words = [line.action for line in lines]
    out.print(f"{words.count('make')} to make, {words.count('reuse')} to reuse, in {escape(str(ready.store))}")
    for text in describe_whole(whole) if whole is not None else ():
        out.print(escape(text))
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
            line = line if line.epochs else replace(line, expected_epochs=_expected_epochs(step.config, step, ready))
            line = _estimated(line, ready, cluster) if cluster is not None else line
        elif name in made and cluster is not None:
            try:
                line = replace(line, time=_stage_time(step, ready, cluster))
            except TooFew as error:
                line = replace(line, problem=str(error))
        lines.append(line)
    return lines


def _whole_run(lines: list[PlanLine], cluster: ClusterConfig) -> WholeRun:
    times = {
        line.step.name: line.estimate.seconds if line.estimate else line.time.seconds if line.time else None
        for line in lines
        if line.action == "make"
    }
    return whole_run(times, cluster)


def _stage_time(step: PlannedStep, ready: Prepared, cluster: ClusterConfig) -> StageTime | None:
    """Return how long a step that cleans, tokenises or scores takes; None for another one.

    Raises TooFew if its pool has not what it asks for.
    """
    if step.stage not in ("clean", "tokenize", "evaluate"):
        return None
    corpora = [ready.plan.steps[name] for name in step.listed("corpus")] or [step]
    try:
        nodes, placement = lay_out(cluster, step.pool)
        if isinstance(step.config, EvaluateConfig):
            found = [load_artifact(ready.store / corpus.artifact, CleanCorpus) for corpus in corpora]
            manifests = [one.manifest for one in found if one is not None]
            known = manifests if len(manifests) == len(corpora) else None
            return _scoring_time(step, ready, cluster, corpora=known, nodes=nodes, placement=placement)
    except TooFew:
        raise
    except UserError as error:  # nothing is known of the machines, or of the speed there: the plan is good without
        return StageTime(None, f"not known: {error}")
    (corpus,) = corpora
    assert isinstance(corpus.config, CleanConfig)
    work = clean_work(corpus.config) if step.stage == "clean" else _text_of(corpus, ready)
    return stage_time(step.stage, work, placement, _directory(ready))


def _text_of(corpus: PlannedStep, ready: Prepared) -> Work:
    """Return the text of a corpus, which is at most that of its source as long as it is not made."""
    finished = load_artifact(ready.store / corpus.artifact, CleanCorpus)
    assert isinstance(corpus.config, CleanConfig)
    return tokenize_work(finished.manifest if finished else None, corpus.config)


def _scoring_time(
    step: PlannedStep,
    ready: Prepared,
    cluster: ClusterConfig,
    *,
    corpora: list[CleanCorpus] | None,
    nodes: list[Node],
    placement: Placement,
) -> StageTime:
    assert isinstance(step.config, EvaluateConfig)
    if corpora is None:
        return StageTime(None, "not known before the corpus is made")
    model = ready.plan.steps[step.one("model") or ""]
    tokens = _find_tokens(model, ready)
    found = _estimate(model, ready, cluster, pool=step.pool, nodes=nodes, placement=placement)
    text = tokens.manifest if tokens else None
    return evaluate_time(step.config, corpora, text, speed=found.speed, placement=found.placement)


def _directory(ready: Prepared) -> Path | None:
    """Return the store's directory; None for a store behind a URL."""
    return ready.store if "://" not in ready.loaded.config.store else None


def _epochs(config: TrainConfig, step: PlannedStep, ready: Prepared) -> tuple[StreamEpochs, ...]:
    tokens = _find_tokens(step, ready)
    return tuple(plan_epochs(tokens, config, steps_on_other_data=_other_steps(step, ready))) if tokens else ()


def _find_tokens(model: PlannedStep, ready: Prepared) -> Artifact[TokenizedCorpus] | None:
    """Return the tokens that a training reads, if all of them are made."""
    steps = [ready.plan.steps[name] for name in model.listed("tokens")]
    found = [load_artifact(ready.store / step.artifact, TokenizedCorpus) for step in steps]
    made = [tokens for tokens in found if tokens is not None]
    return join_tokens(made) if len(made) == len(steps) else None


def _first_step(step: PlannedStep, ready: Prepared) -> int:
    """Return the optimizer steps that a training begins after."""
    source = ready.plan.steps.get(step.one("init") or "")
    assert isinstance(step.config, TrainConfig)
    return steps_before(step.config, source.config if source and isinstance(source.config, TrainConfig) else None)


def _other_steps(step: PlannedStep, ready: Prepared) -> int:
    """Return those of them that read other data."""
    init = step.config.init_from if isinstance(step.config, TrainConfig) else None
    return _first_step(step, ready) if init is not None and init.mode == "new_data" else 0


def _expected_epochs(config: TrainConfig, step: PlannedStep, ready: Prepared) -> float | None:
    corpora = [name for tokens in step.listed("tokens") for name in ready.plan.steps[tokens].listed("corpus")]
    work = [_text_of(ready.plan.steps[name], ready) for name in corpora]
    num_bytes, num_tokens = sum(one.num_bytes for one in work), config.tokens_after(_other_steps(step, ready))
    return num_tokens * BYTES_PER_TOKEN / num_bytes if num_bytes and not any(one.unknown for one in work) else None


def _estimated(line: PlanLine, ready: Prepared, cluster: ClusterConfig) -> PlanLine:
    step = line.step
    assert isinstance(step.config, TrainConfig)
    try:
        nodes, placement = lay_out(cluster, step.pool)
    except TooFew as error:
        return replace(line, problem=str(error))
    found = _estimate(step, ready, cluster, pool=step.pool, nodes=nodes, placement=placement)
    return replace(line, machines=describe_machines(nodes), estimate=found, problem=describe_problem(found))


def _estimate(
    step: PlannedStep,
    ready: Prepared,
    cluster: ClusterConfig,
    *,
    pool: str,
    nodes: list[Node],
    placement: Placement,
) -> Estimate:
    """Return what a training takes on a pool, which need not be that of its step."""
    assert isinstance(step.config, TrainConfig)
    return estimate(
        step.config,
        vocab_size=vocab_size(step, ready),
        pool=cluster.pools[pool],
        nodes=nodes,
        placement=placement,
        store=_directory(ready),
        is_their_disk=cluster.pools[pool].machines is None and cluster.launcher.kind == "local",
        first_step=_first_step(step, ready),
    )


def _render(line: PlanLine) -> Iterator[str]:
    step = line.step
    names = all_inputs(step.inputs)
    made_from = f" <- {', '.join(names)}" if names else ""
    why = f"  {escape(line.why)}" if line.why else ""
    yield f"{line.action:<10}  [bold]{step.name}[/]{made_from}  [dim]{step.artifact}[/]{why}"
    for name, text in epochs_rows(line.epochs) if line.epochs else ():
        yield f"  [dim]{name:<13}[/]  {escape(text)}"
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
        "epochs": {
            one.stream: {"num_tokens": one.num_tokens, "tokens_read": one.tokens_read, "epochs": one.epochs}
            for one in line.epochs
        },
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
        result["estimate"] = shown
    return result
