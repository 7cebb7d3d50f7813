"""What `status`, `logs`, `seen` and `lineage` are asked about, in the one way in which all of them take it.

RECIPE            a recipe's file, or a shipped recipe's name
RECIPE:STEP       one of its steps
RUN, RUN:STEP     a run's id in the store, or one of its steps
ARTIFACT          an artifact's name in the store
a path            of a run, an artifact, a checkpoint, or anything inside an artifact; also in a store behind a URL
nothing           the run of the store that was started last
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cluster.storage.objects import ObjectStore, is_url, open_store
from configs.base import InfrastructureError, UserError
from configs.cluster import StorageConfig
from configs.load import SHIPPED
from pipeline.graph.plan import PlannedStep
from pipeline.prepare import prepare
from pipeline.recipe import read_recipe
from pipeline.runs.directory import RUNS, RunDirectory, open_run, run_ids, store_of
from pipeline.runs.state import outputs_of, steps_of
from pipeline.store.artifact import BUILD_COUNT_FILE, RECORD
from pipeline.store.lineage import find_record
from pipeline.store.remote import UNFINISHED, local_path
from training.records import CHECKPOINT_FILE

_RECIPE_SUFFIXES = (".yaml", ".yml")
_ARTIFACT = re.compile(r"[a-z_]+-[0-9a-f]{12}")


@dataclass(frozen=True)
class ArtifactSubject:
    """An artifact, finished or not, in its store."""

    store: str
    home: Path
    """Directory of the store, or the working copy of a store that is a URL."""

    name: str
    remote: ObjectStore | None = None
    """The store, if it is a URL."""

    checkpoint: Path | None = None
    """The checkpoint that was named, if it was one."""

    @property
    def path(self) -> Path:
        """The directory of the artifact on this machine."""
        return self.home / self.name

    @property
    def is_finished(self) -> bool:
        """Whether its record is there, on this machine or in the store."""
        return find_record(self.home, self.name, self.remote) is not None

    def files_here(self) -> Path:
        """Return the directory of the checkpoint, or of the artifact. Raises UserError if it is in the store alone."""
        path = self.checkpoint or self.path
        if self.remote is not None and not path.exists():
            raise UserError(
                f"the files of {self.name} are in the store {self.store} and not on this machine; `concord run RECIPE "
                "--set outputs=[STEP]` fetches those of a step, or give --work-dir, where they may be"
            )
        return path


@dataclass(frozen=True)
class StepsSubject:
    """A recipe or a run, and perhaps one of its steps."""

    words: str
    """What it is called in a sentence: `run smoke-1a2b3c4d`, `recipe smoke.yaml`."""

    read_steps: Callable[[], Mapping[str, PlannedStep]]
    read_outputs: Callable[[], Iterable[str]]
    home: Path
    store: str
    remote: ObjectStore | None
    run: RunDirectory | None
    """None of a recipe."""

    step: str | None

    @cached_property
    def steps(self) -> Mapping[str, PlannedStep]:
        """The steps by name. Raises UserError if this version cannot read a run's recipe, which logs do not need."""
        return self.read_steps()

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the steps whose artifacts are wanted."""
        return tuple(self.read_outputs())

    def artifact(self, name: str) -> ArtifactSubject:
        """Return the artifact of a step."""
        return ArtifactSubject(self.store, self.home, self.steps[name].artifact, self.remote)

    def one_step(self, stage: str | None = None) -> str:
        """Return the step that was named, or the only one of a stage. Raises UserError if that leaves a choice."""
        fitting = [name for name, step in self.steps.items() if stage is None or step.stage == stage]
        if self.step is not None:
            return self.step
        if len(fitting) == 1:
            return fitting[0]
        what = "steps" if stage is None else f"steps of stage {stage}"
        choice = f"its {what} are {', '.join(fitting)}" if fitting else f"it has no {what}"
        raise UserError(f"{self.words}: {choice}; name one step, as NAME:STEP")


Subject = ArtifactSubject | StepsSubject


def find_subject(
    word: str | None, *, store: str, work_dir: str | None = None, overrides: Iterable[str] | None = None
) -> Subject:
    """Return what a word of the command line names; None is the run that was started last.

    `store` is looked in for runs and artifacts that are given by name. Raises UserError if there is no such thing.
    """
    overrides = tuple(overrides or ())
    name, step = _split(word) if word is not None else ("", None)
    if (Path(name).suffix in _RECIPE_SUFFIXES and Path(name).is_file()) or Path(name).is_fifo():
        return _recipe_subject(name, step, overrides, work_dir)
    if word is None:
        found: Subject | None = _latest(store, work_dir)
    elif is_url(name):
        found = _at_url(name, step, work_dir)
    else:
        found = _named(name, step, store, work_dir) if "/" not in name else None
        found = found or _at_path(name, step, work_dir)
    if found is None and _is_recipe(name):
        return _recipe_subject(name, step, overrides, work_dir)
    if overrides:
        raise UserError("--set changes a recipe, and none is given; name the recipe, or leave --set out")
    if found is None:
        raise UserError(_unknown(str(word), store))
    return found


def find_artifact(subject: Subject, *, stage: str | None = None) -> ArtifactSubject:
    """Return the one artifact that is meant: itself, or that of the named step, or of the only one of a stage."""
    return subject if isinstance(subject, ArtifactSubject) else subject.artifact(subject.one_step(stage))


def find_run(subject: Subject) -> RunDirectory:
    """Return the run that is meant, or the last started of those that make the artifact, or all the recipe wants."""
    if isinstance(subject, StepsSubject) and subject.run is not None:
        return subject.run
    if isinstance(subject, ArtifactSubject):
        store, wanted, words = subject.store, {subject.name}, subject.name
    else:
        named = [subject.step] if subject.step else subject.outputs
        store, wanted = subject.store, {subject.steps[name].artifact for name in named}
        words = f"step {subject.step!r} of {subject.words}" if subject.step else f"what {subject.words} wants"
    for run, artifacts in reversed(_by_start(store)):
        if wanted <= artifacts:
            return run
    raise UserError(
        f"no run that was submitted to the store {store} makes {words}; what `concord run` says goes to its terminal"
    )


def planned_step(subject: ArtifactSubject) -> PlannedStep | None:
    """Return the step that makes an artifact, as the last run that has one planned it; None if no run has.

    Raises UserError if this version cannot read the run's recipe.
    """
    for run, artifacts in reversed(_by_start(subject.store)):
        if subject.name in artifacts:
            return next(step for step in steps_of(run) if step.artifact == subject.name)
    return None


def _split(word: str) -> tuple[str, str | None]:
    """Split `NAME:STEP`. A path that exists is not split, nor is a URL."""
    name, colon, step = word.rpartition(":")
    if not colon or Path(word).exists() or step.startswith("//"):
        return word, None
    return name, step


def _is_recipe(name: str) -> bool:
    """Return whether a word that names nothing else is a recipe: a file, a shipped one, or what looks like a file."""
    shipped = name != "" and "/" not in name and (SHIPPED / "recipes" / f"{name}.yaml").exists()
    return shipped or Path(name).is_file() or Path(name).suffix in _RECIPE_SUFFIXES


def _recipe_subject(name: str, step: str | None, overrides: tuple[str, ...], work_dir: str | None) -> StepsSubject:
    storage = None if work_dir is None else StorageConfig(work_dir=work_dir)
    ready = prepare(read_recipe(Path(name), overrides), storage, builds_models=False)
    return _checked(
        StepsSubject(
            words=f"recipe {name}",
            read_steps=lambda: ready.plan.steps,
            read_outputs=lambda: ready.plan.outputs,
            home=ready.store,
            store=store_of(ready.loaded.config.store),
            remote=ready.remote.store if ready.remote else None,
            run=None,
            step=step,
        )
    )


def _steps_of_run(run: RunDirectory, step: str | None) -> StepsSubject:
    return _checked(
        StepsSubject(
            words=f"run {run.id}",
            read_steps=lambda: {planned.name: planned for planned in steps_of(run)},
            read_outputs=lambda: outputs_of(run),
            home=run.home,
            store=run.store,
            remote=run.remote,
            run=run,
            step=step,
        )
    )


def _checked(subject: StepsSubject) -> StepsSubject:
    if subject.step is not None and subject.step not in subject.steps:
        known = ", ".join(subject.steps) or "none yet"
        raise UserError(f"{subject.words} has no step {subject.step!r} (it has: {known}); name one of these")
    return subject


def _named(name: str, step: str | None, store: str, work_dir: str | None) -> Subject | None:
    """Return the run of this id, or the artifact of this name, in the store."""
    if name in run_ids(store):
        return _steps_of_run(open_run(store, name, work_dir=work_dir), step)
    home = local_path(store_of(store), work_dir or StorageConfig().work_dir)
    remote = open_store(store) if is_url(store) else None
    return _existing(ArtifactSubject(store_of(store), home, name, remote)) if step is None else None


def _at_path(text: str, step: str | None, work_dir: str | None) -> Subject | None:
    """Return the run, the checkpoint or the artifact at a path, or the artifact that the path is inside of."""
    if text == "" or not Path(text).exists():
        return None
    path = Path(text).resolve()
    if path.parent.name == RUNS and path.name in run_ids(str(path.parent.parent)):
        return _steps_of_run(open_run(str(path.parent.parent), path.name, work_dir=work_dir), step)
    if step is not None:
        return None
    if (path / CHECKPOINT_FILE).is_file():  # it may stand alone, copied from elsewhere
        training = path.parent.parent
        return ArtifactSubject(str(training.parent), training.parent, training.name, checkpoint=path)
    folders = (path, *path.parents)
    holding = (f for f in folders if (f / RECORD).is_file() or (f / BUILD_COUNT_FILE).is_file())
    folder = next(holding, None)
    return None if folder is None else ArtifactSubject(str(folder.parent), folder.parent, folder.name)


def _at_url(url: str, step: str | None, work_dir: str | None) -> Subject | None:
    """Return the run or the artifact at a URL, or the one that the URL is inside of."""
    parts = url.rstrip("/").split("/")
    for end in range(len(parts) - 1, 2, -1):
        store, name = "/".join(parts[:end]), parts[end]
        if parts[end - 1] == RUNS and name in run_ids("/".join(parts[: end - 1])):
            return _steps_of_run(open_run("/".join(parts[: end - 1]), name, work_dir=work_dir), step)
        if step is None and _ARTIFACT.fullmatch(name):
            home = local_path(store, work_dir or StorageConfig().work_dir)
            return _existing(ArtifactSubject(store, home, name, open_store(store)))
    return None


def _existing(artifact: ArtifactSubject) -> ArtifactSubject | None:
    """Return the artifact if it is finished or begun."""
    if (artifact.path / BUILD_COUNT_FILE).is_file() or artifact.is_finished:
        return artifact
    begun = f"{UNFINISHED}/{artifact.name}/{BUILD_COUNT_FILE}"
    return artifact if artifact.remote is not None and artifact.remote.size(begun) is not None else None


def _latest(store: str, work_dir: str | None) -> StepsSubject:
    runs = _by_start(store)
    if not runs:
        raise UserError(
            f"no run was submitted to the store {store}; name a recipe, an artifact or a path, or give another --store"
        )
    return _steps_of_run(open_run(store, runs[-1][0].id, work_dir=work_dir), None)


def _by_start(store: str) -> list[tuple[RunDirectory, set[str]]]:
    """Return the runs of a store by the time of their last start, each with the artifacts that this was to make.

    A run that this version cannot read is left out.
    """
    found = []
    for run_id in run_ids(store):
        try:
            directory = open_run(store, run_id)
            run, starts = directory.run(), directory.starts()
        except InfrastructureError:
            raise
        except UserError:
            continue
        assert run is not None
        last = starts[-1] if starts else None
        when, artifacts = (last.time, last.artifacts) if last else (run.submitted, {})
        found.append((when, run_id, directory, set(artifacts.values())))
    return [(directory, artifacts) for _, _, directory, artifacts in sorted(found, key=lambda item: item[:2])]


def _unknown(word: str, store: str) -> str:
    ways = "give RECIPE:STEP, a run's id, an artifact's name, or a path of one of these, perhaps with --store DIR"
    if "/" in word and not is_url(word):
        there = "holds no run, checkpoint or artifact, nor is it in one" if Path(word).exists() else "does not exist"
        return f"{word} {there} (seen from {Path.cwd()}); {ways}"
    if is_url(word):
        return f"there is no run and no artifact at {word}; {ways}"
    known = run_ids(store)
    runs = f"its runs are {', '.join(known[-5:])}" if known else "it has no runs"
    path = ", and the path of this name is none and in none" if word and Path(word).exists() else ""
    return f"the store {store} has no run and no artifact {word!r} ({runs}){path}; {ways}"
