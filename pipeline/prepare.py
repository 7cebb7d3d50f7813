"""A recipe made ready to be run: read, checked, its sources observed, its steps planned. No step is made here."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pydantic import JsonValue, ValidationError

from configs.base import Artifact, Config, InfrastructureError, Manifest, UserError
from configs.cluster import ClusterConfig, StorageConfig
from configs.data.stages import CleanConfig, ImportTokenizerConfig, TrainTokenizerConfig
from configs.launchers import NodesLauncher, node_groups
from configs.load import Loaded, Problem
from configs.run import RunConfig
from configs.training.train import CadenceConfig, TrainConfig
from data_prep.manifests import TrainedTokenizer
from data_prep.tokenizer.foreign_files import read_foreign
from pipeline.data_checks import data_problems, deciding_steps
from pipeline.graph.fingerprint import Digests
from pipeline.graph.plan import Plan, PlannedStep, make_plan
from pipeline.graph.wiring import all_inputs, wire, wiring_problems
from pipeline.recipe import below, text_problems, vocab_size_of
from pipeline.stages import STAGES
from pipeline.store.artifact import load_artifact
from pipeline.store.remote import RemoteStore, local_path, open_remote_store
from training.init.continued import find_problems
from training.init.locate import find_weights
from training.sizing.model_check import check_with_transformers, is_settled

_KEY = re.compile(r"(model|freeze|init_from)\b(\.\w+)*")
_PROFILED = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?")


@dataclass(frozen=True)
class Prepared:
    """A recipe that was read, checked and planned: what is to be made, and where."""

    plan: Plan
    store: Path
    """The directory of the store, or the working copy of a store that is a URL."""

    remote: RemoteStore | None
    """The store, if it is a URL."""

    loaded: Loaded[RunConfig]

    as_they_are: Mapping[str, Artifact[Manifest]] = field(default_factory=dict)
    """Trainings that are not finished and are not to be, by step: a checkpoint of theirs is evaluated or exported."""

    def has(self, step: PlannedStep) -> bool:
        """Return whether the artifact of a step is finished, on this machine or in the store, or taken as it is."""
        if step.name in self.as_they_are:
            return True
        is_local = load_artifact(self.store / step.artifact, STAGES[step.stage].output) is not None
        return is_local or (self.remote is not None and self.remote.has(step.artifact))


def prepare(loaded: Loaded[RunConfig], storage: StorageConfig | None = None, *, builds_models: bool = True) -> Prepared:
    """Observe the sources of a recipe that was read and plan it. Raises ConfigError or UserError.

    With `builds_models` transformers is asked about models that the table of families does not settle, which takes
    seconds: for what is about to be run, before any source is read.
    """
    storage = storage or StorageConfig()
    loaded.fail(wiring_problems(loaded.config, STAGES))
    loaded.fail(text_problems(wire(loaded.config, STAGES)[0]))
    loaded.fail(_path_problems(loaded.config))
    if builds_models:
        _check_models(loaded)
    store = local_path(loaded.config.store, storage.work_dir)
    plan = make_plan(loaded.config, STAGES, _observe_sources(loaded, store))
    return Prepared(plan, store, open_remote_store(loaded.config.store, storage), loaded)


def _path_problems(run: RunConfig) -> Iterator[Problem]:
    """Yield weights to begin with, and tokenizers, that are not where they should be: before libraries are imported."""
    for name, step in run.steps.items():
        try:
            if isinstance(step.config, TrainConfig) and (init := step.config.init_from) is not None and init.path:
                find_weights(init)
            if isinstance(step.config, ImportTokenizerConfig):
                read_foreign(step.config)
        except InfrastructureError:
            raise
        except UserError as error:
            where = "init_from" if isinstance(step.config, TrainConfig) else "path"
            yield Problem(("steps", name, "config", where), str(error))


def _check_models(loaded: Loaded[RunConfig]) -> None:
    """Raise ConfigError on models that transformers refuses, and on weights to begin with that are of another model."""
    problems: list[Problem] = []
    for name, step in loaded.config.steps.items():
        if not isinstance(step.config, TrainConfig):
            continue
        init = step.config.init_from
        try:
            if init is not None and init.path is not None and init.mode != "weights":
                found = list(find_problems(step.config, init))
                problems += below(("steps", name, "config"), found)
                if found:
                    continue
            if not is_settled(step.config):
                check_with_transformers(step.config, vocab_size=vocab_size_of(loaded.config, name))
            if init is not None and init.mode == "weights" and init.path:
                from training.init.fill import check_init_weights

                check_init_weights(step.config, init)
        except UserError as error:
            problems.append(Problem(("steps", name, "config", *_named_key(str(error))), str(error)))
    loaded.fail(problems)


def _named_key(sentence: str) -> tuple[str, ...]:
    """Return the location in a training's config of the key that a sentence about it begins with, or of `model`."""
    found = _KEY.match(sentence)
    return tuple(found[0].split(".")) if found else ("model",)


def _observe_sources(loaded: Loaded[RunConfig], store: Path) -> dict[str, JsonValue]:
    """Return what the sources hold, by step name: what is hashed of them. Digests of files are kept in the store."""
    digests = Digests(store)
    seen: dict[str, JsonValue] = {}
    problems: list[Problem] = []
    for name, step in wire(loaded.config, STAGES)[0].items():
        if (observe := STAGES[step.stage].observe) is not None:
            try:
                seen[name] = observe(step.config, digests)
            except InfrastructureError:  # a file system that does not answer is no mistake in the recipe
                raise
            except UserError as error:
                place = _named_source(loaded.config.steps[step.origin].config, str(error))
                problems.append(Problem(("steps", step.origin, "config", *place), str(error)))
    digests.save()
    loaded.fail(problems)
    return seen


def _named_source(config: Config, sentence: str) -> tuple[str | int, ...]:
    """Return the location in a step's config of the source that a sentence about it begins with; empty without one."""
    sources = config.sources if isinstance(config, CleanConfig) else ()
    found = (("sources", i) for i, source in enumerate(sources) if sentence.startswith(f"source '{source.name}'"))
    return next(found, ())


def vocab_size(step: PlannedStep, ready: Prepared) -> int:
    """Return the vocabulary size of the finished tokenizer of a step, or else the one that the tokenizer's asks for."""
    tokenizer = ready.plan.steps[step.one("tokenizer") or ""]
    if finished := load_artifact(ready.store / tokenizer.artifact, TrainedTokenizer):
        return finished.manifest.vocab_size
    if isinstance(tokenizer.config, ImportTokenizerConfig):
        return read_foreign(tokenizer.config).num_rows
    return TrainTokenizerConfig.model_validate(tokenizer.config).vocab_size


def check_pools(ready: Prepared, machines: ClusterConfig, cluster: str) -> None:
    """Raise ConfigError if a step wants a pool that the cluster file does not have."""
    steps = ready.plan.steps.values()
    missing = [step for step in steps if step.pool not in machines.pools]
    ready.loaded.fail(
        Problem(
            ("steps", step.origin, "pool"),
            f"step {step.name!r} wants pool {step.pool!r}, which cluster {cluster!r} does not have "
            f"(it has: {', '.join(machines.pools)})",
        )
        for step in missing
    )


def needed_steps(ready: Prepared) -> Mapping[str, str]:
    """Return `reuse` or `make` for each step that the wanted outputs need, as the runner would decide."""
    words: dict[str, str] = {}

    def need(name: str) -> None:
        if name in words:
            return
        step = ready.plan.steps[name]
        exists = ready.has(step)
        words[name] = "reuse" if exists else "make"
        for source in all_inputs(step.inputs) if not exists else ():
            need(source)

    for output in ready.plan.outputs:
        need(output)
    return words


def steps_to_make(ready: Prepared) -> list[str]:
    """Return the steps that the wanted outputs need and that are not made yet."""
    return [name for name, word in needed_steps(ready).items() if word == "make"]


def unused_pools(ready: Prepared, machines: ClusterConfig) -> list[str]:
    """Return the pools that no step that is to be made uses; none where nothing is to be made."""
    used = {ready.plan.steps[name].pool for name in steps_to_make(ready)}
    return [name for name in machines.pools if name not in used] if used else []


def describe_unused(ready: Prepared, machines: ClusterConfig) -> list[str]:
    """Say of each pool that nothing uses, and of nodes that the launcher asks for and nothing uses, that it is so."""
    unused = unused_pools(ready, machines)
    lines = [f"pool {name!r} is used by no step that is to be made" for name in unused]
    launcher, asked = machines.launcher, machines.without_pools(unused)
    if not isinstance(launcher, NodesLauncher):
        return lines
    if asked is not machines:
        return [f"{line}; nodes that only it needs are not asked for" for line in lines]
    kinds = [kind for name, pool in machines.pools.items() if name not in unused for kind in pool.kinds()]
    known = [kind.num_nodes for kind in kinds if kind.num_nodes is not None]
    number, most = sum(group.num_nodes for group in node_groups(launcher, machines.pools)), sum(known)
    if len(known) == len(kinds) and number > most:
        lines.append(
            f"the launcher asks for {number} nodes, and the pools that are used have {most} by their num_nodes: the "
            "others would be idle"
        )
    return lines


def check_stages(ready: Prepared) -> None:
    """Raise ConfigError if a step that is to be made cannot be made here.

    Such as for want of a package, or a training whose settings do not go with text that is there already.
    """
    problems: list[Problem] = []
    for name, word in needed_steps(ready).items():
        step = ready.plan.steps[name]
        try:
            if word == "make" and (check := STAGES[step.stage].check) is not None:
                check(step.config)
        except UserError as error:
            problems.append(Problem(("steps", step.origin, "config"), str(error)))
    ready.loaded.fail(problems)
    to_make = steps_to_make(ready)
    for name in dict.fromkeys(source for other in to_make for source in deciding_steps(ready.plan, other)):
        if find_artifact(ready, name) is not None:
            ready.loaded.fail(data_problems(ready.plan, name, partial(find_artifact, ready), to_make))


def find_artifact(ready: Prepared, name: str) -> Artifact[Manifest] | None:
    """Return the artifact of a step if it is finished on this machine."""
    step = ready.plan.steps[name]
    return load_artifact(ready.store / step.artifact, STAGES[step.stage].output)


def with_profile(ready: Prepared, profile: str | None) -> Prepared:
    """Return the same, with its trainings to record the optimizer steps that --profile names, as `10` or `10-12`.

    A training that has not so many steps records none. Raises UserError if these are no steps, or none has so many.
    """
    if profile is None:
        return ready
    found = _PROFILED.fullmatch(profile)
    if found is None:
        raise UserError(f"--profile {profile}: give the optimizer steps to record, counted from 1, as 10 or 10-12")
    first, last = int(found[1]), int(found[2] or found[1])
    try:
        CadenceConfig(profile_steps=(first, last))
    except ValidationError as error:
        raise UserError(f"--profile {profile}: {error.errors()[0]['ctx']['error']}") from None
    changed = {
        name: replace(step, cadence=step.cadence.model_copy(update={"profile_steps": (first, last)}))
        for name, step in ready.plan.steps.items()
        if isinstance(step.config, TrainConfig) and step.cadence and last <= step.config.total_steps
    }
    if not changed:
        raise UserError(f"--profile {profile}: no training of this recipe has {last:,} steps; give earlier ones")
    return replace(ready, plan=replace(ready.plan, steps={**ready.plan.steps, **changed}))


def check_profile(ready: Prepared, profile: str | None) -> None:
    """Raise UserError if no training that is to record what --profile names is still to be made."""
    asked = {
        name
        for name, step in ready.plan.steps.items()
        if isinstance(step.cadence, CadenceConfig) and step.cadence.profile_steps
    }
    if profile is not None and not any(word == "make" and name in asked for name, word in needed_steps(ready).items()):
        raise UserError(
            f"--profile {profile}: no training of this recipe that has these steps is still to be made, so nothing "
            "would be recorded; leave it out"
        )
