"""What tasks are beyond what a config says: files of suites and tasks, data on disk, other models. No heavy imports."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pydantic import JsonValue

from configs.base import InfrastructureError, UserError
from configs.evaluation import CONTINUATION, EvaluateConfig
from configs.load import shipped
from data_prep.sources.document import Digest
from eval.parallel import parallel_files, read_sentences
from eval.tasks.suites import find_tasks, lm_eval_folder
from eval.tasks.task import Task


def check_tasks(config: EvaluateConfig, *, skips_absent: bool = False) -> None:
    """Raise UserError if a task or a suite is not there, or lm-eval is not installed and needed.

    With `skips_absent` tasks of suites may have no data on this machine's disks.
    """
    if config.data is not None and not Path(config.data).is_dir():
        raise UserError(f"data: {config.data} is no directory; give the one that has the suites' data, or leave it out")
    if config.parallel is not None:
        files = parallel_files(Path(config.parallel))
        read_sentences(Path(config.parallel), files)
        if config.languages and not set(config.languages) & files.keys():
            raise UserError(
                f"parallel: {config.parallel} has no sentences in {', '.join(config.languages)}; it has some in "
                f"{', '.join(sorted(files))}"
            )
    if config.tasks or config.suites:
        lm_eval_folder()
        find_tasks(config, skips_absent=skips_absent)


def find_setting_problems(config: EvaluateConfig) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield files that a config names and that are not there, with where in the config: tasks, models, data."""
    settings: list[tuple[tuple[str | int, ...], Callable[[], object]]] = []
    if find_spec("lm_eval") is not None:  # want of it is told where tasks are to be scored
        for number, name in enumerate(config.tasks):
            settings.append((("tasks", number), partial(find_tasks, EvaluateConfig(tasks=(name,)))))
    for name, path in config.baselines.items():
        settings.append((("baselines", name), partial(digest_model, f"baselines: {name}", Path(path), lambda path: "")))
    only = EvaluateConfig(tasks=(), languages=config.languages)
    for key in ("data", "parallel"):
        if (given := getattr(config, key)) is not None:
            settings.append(((key,), partial(check_tasks, only.model_copy(update={key: given}))))
    if config.data is not None and Path(config.data).is_dir() and config.suites and find_spec("lm_eval") is not None:
        settings.append((("data",), partial(find_tasks, config.model_copy(update={"tasks": ()}))))
    for at, check in settings:
        try:
            check()
        except InfrastructureError:  # a file system that does not answer is no mistake in the recipe
            raise
        except UserError as error:
            yield at, str(error)


def observe_tasks(config: EvaluateConfig, digest: Digest) -> JsonValue:
    """Return what tasks are beyond what the config says: files of suites and tasks, data on disk, lm-eval's version.

    None where no more is asked than `continuation`.
    """
    tasks = [task for task in find_tasks(config) if task.name != CONTINUATION]
    baselines: dict[str, JsonValue] = {
        name: digest_model(f"baselines: {name}", Path(path), digest) for name, path in config.baselines.items()
    }
    sentences = parallel_files(Path(config.parallel)) if config.parallel is not None else {}
    beside: dict[str, JsonValue] = {"baselines": baselines} if baselines else {}
    if sentences:
        beside["parallel"] = {label: digest(path) for label, path in sorted(sentences.items())}
    if not tasks and not config.suites:
        return beside or None
    data = {path for task in tasks for _, path in task.files}
    own = {path for task in tasks for path in files_of_task(task)} - data
    return {
        "lm_eval": version("lm_eval"),
        "suites": {name: digest(shipped("suites", name)) for name in config.suites},
        "tasks": {str(path): digest(path) for path in sorted(own)},
        "data": {str(path): digest(path) for path in sorted(data)},
        **beside,
    }


def with_digests(tasks: Iterable[Task], digest: Digest) -> list[Task]:
    """Return tasks with the digest of the files that each reads, so that answers to others are not taken for theirs."""
    return [replace(task, data_digest=_digest_files(task, digest)) for task in tasks]


def _digest_files(task: Task, digest: Digest) -> str:
    files = sorted(files_of_task(task))
    told = json.dumps({str(path): digest(path) for path in files})
    return hashlib.sha256(told.encode()).hexdigest() if files else ""


def files_of_task(task: Task) -> set[Path]:
    """Return the files on this machine's disks that a task is made of, but for lm-eval's own."""
    found = {path for _, path in task.files}
    words = (word for part in task.command[1:] for word in (part, part.partition("@")[0], part.rpartition("=")[2]))
    found |= {path for word in words if word and (path := Path(word)).is_file()}
    if task.file is not None and lm_eval_folder() not in task.file.parents:
        found |= _files_with(task.file)
    return found


def _files_with(task: Path) -> set[Path]:
    """Return a task's file, and those that it names: what it includes, its functions' modules, and their own."""
    found, waiting = set[Path](), [task.absolute()]
    while waiting:
        if (path := waiting.pop()) in found:
            continue
        found.add(path)
        if path.suffix == ".py" or path.name.endswith(("yaml", ".yml")):
            waiting += _named_in(path)
    return found


def _named_in(file: Path) -> Iterator[Path]:
    """Yield the files that a YAML file or a Python module names, beside it or from the working directory."""
    text = file.read_text(encoding="utf-8", errors="replace")
    modules = re.findall(r"!function +([\w.]+)\.\w+", text) + re.findall(r"^ *(?:from|import) +([\w.]+)", text, re.M)
    words = [f"{module.replace('.', '/')}.py" for module in modules] + re.findall(r"[\w./~+-]+", text)
    for word in words:
        for path in (file.parent / word, Path(word).expanduser()):
            with suppress(OSError, RuntimeError):  # no name of a file
                if path.is_file():
                    yield path.absolute()


def digest_model(where: str, directory: Path, digest: Digest) -> dict[str, JsonValue]:
    """Return the digests of a model's files. Raises UserError, which begins with `where`, if it is none."""
    if not (directory / "config.json").is_file():
        raise UserError(
            f"{where}: {directory} has no config.json, so it is no model; give a directory that transformers loads"
        )
    if not any(path.suffix in (".safetensors", ".bin") for path in directory.iterdir()):
        raise UserError(f"{where}: {directory} has no weights (*.safetensors); give a whole model")
    files = [
        path
        for path in sorted(directory.iterdir())
        if path.suffix in (".json", ".safetensors", ".bin", ".model", ".txt")
    ]
    return {path.name: digest(path) for path in files}
