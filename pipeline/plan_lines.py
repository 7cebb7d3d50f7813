"""What a plan says of each step: whether and why it is made, how long it takes, what a training reads and needs."""

from dataclasses import dataclass, replace
from pathlib import Path

from cluster.machines import Node
from cluster.placement import Placement, TooFew, describe_machines
from configs.base import GIB, Artifact, UserError
from configs.cluster import ClusterConfig
from configs.data.stages import CleanConfig, DeduplicateConfig
from configs.evaluation import EvaluateConfig
from configs.training.train import TrainConfig
from data_prep.manifests import CleanCorpus, TokenizedCorpus, TrainedTokenizer
from data_prep.tokens.join import join_tokens
from eval.sizing import scoring_bytes
from pipeline.estimate.estimate import Estimate, estimate
from pipeline.estimate.machines import lay_out
from pipeline.estimate.rows import describe_problem
from pipeline.estimate.stage_time import (
    BYTES_PER_TOKEN,
    StageTime,
    Work,
    clean_work,
    evaluate_time,
    mask_work,
    stage_time,
    tokenize_work,
)
from pipeline.graph.plan import PlannedStep
from pipeline.graph.why import why_make
from pipeline.prepare import Prepared, needed_steps, vocab_size
from pipeline.store.artifact import load_artifact
from training.data.epochs import StreamEpochs, plan_epochs
from training.init.continued import steps_before
from training.sizing.recipe_size import find_parameters, measure_model


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

    round_trip: str = ""
    """What a tokenizer that is there does not decode to itself; empty if that is nothing, or of another step."""

    memory: str = ""
    """What scoring takes of a worker's device, and has; empty for another step."""

    expected_epochs: float | None = None
    """How often it reads all text, by the size of that, as long as its tokens are not made; None where it is not known.
    """


def plan_lines(ready: Prepared, cluster: ClusterConfig | None) -> list[PlanLine]:
    """Return what is to be done about each step, in the order of the plan."""
    needed = needed_steps(ready)
    made = {name for name, word in needed.items() if word == "make"}
    fingerprints = {name: step.fingerprint for name, step in ready.plan.steps.items()}
    lines = []
    for name, step in ready.plan.steps.items():
        action = needed.get(name, "not needed")
        why = why_make(step, ready.store, made_anew=made, fingerprints=fingerprints) if name in made else ""
        line = PlanLine(step, action, why, round_trip=_round_trip(step, ready) if action == "reuse" else "")
        if name in made and isinstance(step.config, TrainConfig):
            line = replace(line, epochs=_epochs(step.config, step, ready))
            line = line if line.epochs else replace(line, expected_epochs=_expected_epochs(step.config, step, ready))
            line = _estimated(line, ready, cluster) if cluster is not None else line
        elif name in made and cluster is not None:
            try:
                memory, problem = _scoring_memory(step, ready, cluster)
                line = replace(line, time=_stage_time(step, ready, cluster), memory=memory, problem=problem)
            except TooFew as error:
                line = replace(line, problem=str(error))
        lines.append(line)
    return lines


def _round_trip(step: PlannedStep, ready: Prepared) -> str:
    """Return what the tokenizer that a step has made does not decode to itself, in words."""
    if step.stage not in ("train_tokenizer", "import_tokenizer"):
        return ""
    found = load_artifact(ready.store / step.artifact, TrainedTokenizer)
    return found.manifest.certificate.describe_changed() if found is not None else ""


def _stage_time(step: PlannedStep, ready: Prepared, cluster: ClusterConfig) -> StageTime | None:
    """Return how long a step that goes through text takes; None for another one.

    Raises TooFew if its pool has not what it asks for.
    """
    if step.stage not in ("clean", "deduplicate", "tokenize", "evaluate"):
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
    if isinstance(step.config, DeduplicateConfig):
        earlier = [_text_of(ready.plan.steps[name], ready) for name in step.listed("earlier")]
        work = mask_work(work, earlier, step.config)
    return stage_time(step.stage, step.config, work, placement, _directory(ready))


def _text_of(corpus: PlannedStep, ready: Prepared) -> Work:
    """Return the text of a corpus, which is at most that of its source as long as it is not made."""
    finished = load_artifact(ready.store / corpus.artifact, CleanCorpus)
    assert isinstance(corpus.config, CleanConfig)
    return tokenize_work(finished.manifest if finished else None, corpus.config)


def _scoring_memory(step: PlannedStep, ready: Prepared, cluster: ClusterConfig) -> tuple[str, str]:
    """Return the memory of a step that scores a model, and the problem if it has not so much; both empty of others."""
    model = ready.plan.steps.get(step.one("model") or "")
    if not isinstance(step.config, EvaluateConfig) or model is None or not isinstance(model.config, TrainConfig):
        return "", ""
    try:
        _, placement = lay_out(cluster, step.pool)
    except UserError:  # told with the time
        return "", ""
    size = measure_model(find_parameters(model.config, vocab_size=vocab_size(model, ready)), model.config)
    needed = scoring_bytes(size, placement.device, sequence_length=model.config.sequence_length)
    there = placement.memory_bytes_per_rank
    memory = f"{needed / GIB:,.1f} GiB a worker" + (f" of {there / GIB:,.1f}" if there else ", of what is not known")
    if there is None or needed <= there:
        return memory, ""
    return memory, (
        f"scoring takes {needed / GIB:,.1f} GiB, and a worker of pool {step.pool!r} has {there / GIB:,.1f}; give the "
        "step a pool with more memory"
    )


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
        work_store=ready.store,
        is_their_disk=cluster.pools[pool].machines is None and cluster.launcher.kind == "local",
        first_step=_first_step(step, ready),
    )
