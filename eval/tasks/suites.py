"""Finds the tasks that a recipe names: in suites, in lm-eval's folders, in YAML files. Imports nothing heavy.

lm-eval's own index of its 14,697 tasks takes 13 seconds; here only folders that a suite names are looked into, and of
tasks that are named alone the files whose first lines name them.
"""

import ast
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from configs.base import UserError
from configs.data.languages import UNDETERMINED, is_of, normalize_language
from configs.evaluation import CONTINUATION, EvaluateConfig
from configs.load import load, shipped
from configs.tasks import SuiteConfig, TaskConfig
from configs.text import one_line
from eval.tasks.task import RESERVED, Task

_TASK = re.compile(r"^\"?(?:task|group)\"?: *[\"']?([^\"'\s#]+)[\"']? *(?:#.*)?$", re.M)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_PLACEHOLDERS = {"iso": r"[a-z]{3}_[A-Z][a-z]{3}", "alpha3": r"[a-z]{3}", "alpha2": r"[a-z]{2}", "name": r"[a-z]+"}
_DYNAMIC = ("globals", "setattr", "exec", "vars")
"""What a module with names that its text does not have calls."""

_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".csv", ".tsv")
_SUFFIX = re.compile(rf"(?:^|_)({_PLACEHOLDERS['iso']})(?:_|$)")


def find_tasks(
    config: EvaluateConfig, languages: Collection[str] | None = None, *, skips_absent: bool = False
) -> list[Task]:
    """Return the tasks of a recipe, each once, in order; `languages` are those of the corpora, by their labels.

    Without these tasks of all languages are found, and those whose data are not on disk left out, as with
    `skips_absent`. Raises UserError for a task, a suite or a file that is not there.
    """
    skips_absent = skips_absent or (not config.languages and languages is None)
    absent: list[str] = []
    wanted = [normalize_language(tag) for tag in config.languages] or (None if languages is None else [*languages])
    found: dict[str, Task] = {}
    for name in config.tasks:
        task = Task(CONTINUATION, CONTINUATION, CONTINUATION, None, UNDETERMINED, "multiple_choice", metric="acc_bytes")
        one = task if name == CONTINUATION else _named(name)
        if one.name in found:
            raise UserError(f"tasks: {name} is a second task of the name {one.name!r}; give it another name")
        found[one.name] = one
    for name in config.suites:
        suite = read_suite(name)
        own: dict[str, Task] = {}
        for task in (
            task for entry in suite.tasks for task in _tasks_of(entry, wanted, shipped("suites", name).parent)
        ):
            if not _NAME.fullmatch(task.name) or task.name in RESERVED:
                raise UserError(
                    f"suite {name!r}: a task cannot have the name {task.name!r}, which files get; rename it"
                )
            if task.name in own:
                raise UserError(f"suite {name!r} has two tasks of the name {task.name!r}; give one another `name`")
            own[task.name] = replace(task, suite=Path(name).stem)
        for task in own.values():
            if config.data is None:
                found.setdefault(task.name, replace(task, files=()))
                continue
            try:
                found.setdefault(task.name, _with_data(task, Path(config.data)))
            except UserError as error:
                absent.append(str(error))
        if not own and wanted is not None and languages is not None:
            raise UserError(
                f"suite {name!r} has no task in {', '.join(sorted(wanted)) or 'any language'}; give other `languages`, "
                "or leave it out"
            )
    if absent and not skips_absent:
        more = f" (and so of {len(absent) - 1:,} more tasks)" if len(absent) > 1 else ""
        raise UserError(f"{absent[0]}{more}")
    return list(found.values())


def read_suite(name: str) -> SuiteConfig:
    """Return a suite by its name or the path of its file. Raises ConfigError with all that is wrong in it."""
    return load(shipped("suites", name), SuiteConfig, ()).config


def lm_eval_folder() -> Path:
    """Return where lm-eval has its tasks. Raises UserError if it is not installed."""
    spec = find_spec("lm_eval")
    if spec is None or spec.origin is None:
        raise UserError(
            "tasks are scored by lm-eval, which is not installed here; pip install 'concord-train[eval]', or set "
            "tasks: [] and suites: []"
        )
    return Path(spec.origin).parent / "tasks"


def _named(name: str) -> Task:
    """Return the task of a name, or of a path."""
    if ".py:" in name:
        script, function = _python_file(name)
        if not _NAME.fullmatch(function) or function in RESERVED:
            raise UserError(f"tasks: {name}: a task cannot have the name {function!r}; name the function otherwise")
        return Task(
            function, function, function, script, _language_in(function), None, adapter="python", function=function
        )
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"tasks: {name} is not there; give the path of a YAML file of lm-eval's")
        try:
            found = _TASK.search(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"tasks: {name} is no UTF-8 text; give a YAML file of a task of lm-eval's") from None
        if found is None:
            raise UserError(f"tasks: {name} has no line `task: NAME`; give a YAML file of a task of lm-eval's")
        if not _NAME.fullmatch(found[1]) or found[1] in RESERVED:
            raise UserError(f"tasks: {name}: a task cannot have the name {found[1]!r}, which files get; rename it")
        return Task(found[1], _family_of(found[1]), found[1], path.absolute(), _language_in(found[1]), None)
    file = _find_file(name)
    if file is None:
        raise UserError(
            f"tasks: lm-eval has no task {name!r}{_close_to(name)}; `lm-eval ls tasks` lists them, or give the path of "
            "a YAML file"
        )
    if re.search(rf"^group: *[\"']?{re.escape(name)}[\"']? *$", file.read_text(encoding="utf-8"), re.M):
        raise UserError(f"tasks: {name} is a group of tasks of lm-eval's; name its tasks")
    return Task(name, _family_of(name), name, file, _language_in(name), None)


def _python_file(given: str, beside: Path = Path()) -> tuple[Path, str]:
    """Return the file and the function of `FILE.py:NAME`, which is in the directory `beside` or the working directory.

    Raises UserError if there is no such file, or no such function in it.
    """
    name, _, function = given.rpartition(":")
    for path in (beside / name, Path(name)):
        if path.is_file():
            if (known := _names_of_module(path)) is not None and function not in known:
                close = get_close_matches(function, known, n=1)
                meant = f"; did you mean {close[0]!r}?" if close else "; name one that takes the model"
                raise UserError(f"tasks: {given}: {path.name} has no function {function!r}{meant}")
            return path.absolute(), function
    raise UserError(f"tasks: {given}: {name} is not there; give the path of a Python file")


def _names_of_module(path: Path) -> set[str] | None:
    """Return the names that a Python file gives, read from its text; None if only running it tells them.

    Raises UserError if it is no Python.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"tasks: {path} is no Python file ({one_line(error)}); correct it") from None
    nodes = list(ast.walk(tree))
    given = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    defined = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    if any(alias.name == "*" for alias in given) or any(
        isinstance(node, ast.Name) and node.id in _DYNAMIC for node in nodes
    ):
        return None
    names = {alias.asname or alias.name for alias in given} | {node.name for node in defined}
    return names | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _language_in(name: str) -> str:
    """Return the language that a name tells, as `belebele_swh_Latn` does; `und` if it tells none."""
    found = _SUFFIX.search(name)
    return normalize_language(found[1]) if found else UNDETERMINED


def _family_of(name: str) -> str:
    """Return a name without the language that it tells."""
    return _SUFFIX.sub("_", name).strip("_") or name


def _find_file(name: str) -> Path | None:
    """Return lm-eval's file of a task, looking first where its name begins like a folder's."""
    root = lm_eval_folder()
    folders = sorted((one for one in root.iterdir() if one.is_dir()), key=lambda one: -len(one.name))
    likely = [one for one in folders if name.startswith(one.name)]
    for folder in (*likely, *(one for one in folders if one not in likely)):
        if (file := names_in(folder).get(name)) is not None:
            return file
    return None


@cache
def names_in(folder: Path) -> dict[str, Path]:
    """Return the tasks and groups that files below a folder of lm-eval's name, with their files."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*.yaml")):
        for name in _TASK.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name, path)
    return found


def _close_to(name: str) -> str:
    folders = [one for one in lm_eval_folder().iterdir() if one.is_dir()]
    near = get_close_matches(name.partition("_")[0], [one.name for one in folders], n=1, cutoff=0.8)
    names = [one for folder in folders if folder.name in near for one in names_in(folder)]
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _tasks_of(entry: TaskConfig, wanted: Collection[str] | None, beside: Path) -> Iterator[Task]:
    """Yield the tasks of an entry in the wanted languages; `beside` is the directory of its suite.

    Raises UserError if lm-eval does not have it, or a function's file is not there.
    """
    names: Mapping[str, Path | None]
    if entry.adapter != "lm_eval":
        names = {entry.task: _python_file(entry.function, beside)[0] if entry.function else None}
    elif entry.folder == ".":
        names = {_filled(entry.task, code): None for code in entry.languages or ("",)}
    else:
        folder = lm_eval_folder() / str(entry.folder)
        names = names_in(folder) if folder.is_dir() else {}
    placeholder = next((one for one in _PLACEHOLDERS if f"{{{one}}}" in entry.task), None)
    if placeholder is None:
        if entry.task not in names:
            raise UserError(f"this lm-eval has no task {entry.task!r} in {entry.folder}; install another version of it")
        label = normalize_language(entry.language) if entry.language else UNDETERMINED
        if label == UNDETERMINED or _is_wanted(label, wanted):
            yield _task(entry, entry.task, names[entry.task], label, "")
        return
    parts = map(re.escape, entry.task.split(f"{{{placeholder}}}"))
    pattern = re.compile(f"({_PLACEHOLDERS[placeholder]})".join(parts))
    for name, file in names.items():
        if found := pattern.fullmatch(name):
            tag = _label_of(found[1], placeholder)
            if tag is not None and _is_wanted(tag, wanted):
                yield _task(entry, name, file, tag, found[1])


def _label_of(code: str, placeholder: str) -> str | None:
    """Return the label of a language by what stands for a placeholder; None if that is no language."""
    import langcodes

    try:
        return normalize_language(str(langcodes.find(code)) if placeholder == "name" else code)
    except (ValueError, LookupError):
        return None


def _is_wanted(label: str, wanted: Collection[str] | None) -> bool:
    """Return whether a task in a language tells of texts in the wanted ones: the same, or one says no script."""
    return wanted is None or any(is_of(label, one) or is_of(one, label) for one in wanted)


def _task(entry: TaskConfig, name: str, file: Path | None, label: str, code: str) -> Task:
    return Task(
        name=_filled(entry.name, code) if entry.name else name,
        family=re.sub("_+", "_", _filled(entry.name or entry.task, "")).strip("_"),
        lm_eval_name=name,
        file=file,
        language=label,
        kind=entry.kind,
        formulation=entry.formulation,
        metric=entry.metric,
        chance=entry.chance,
        num_fewshot=entry.num_fewshot,
        cluster=entry.cluster,
        licence=entry.licence,
        source=entry.source,
        revision=entry.revision,
        digest=entry.digest,
        version=entry.version,
        files=tuple((split, Path(_filled(path, code))) for split, path in entry.files.items()),
        columns=entry.columns,
        adapter=entry.adapter,
        function=(entry.function or "").rpartition(":")[2],
        command=entry.command,
        reads=entry.reads,
        timeout_hours=entry.timeout_hours,
        higher_is_better=entry.higher_is_better,
        overrides=tuple((key, _filled_in(value, code)) for key, value in entry.set.items()),
    )


def _filled(text: str, code: str) -> str:
    """Return a text with what stands for its placeholder; `{{x_{iso}}}` is jinja with a placeholder in it."""
    for placeholder in _PLACEHOLDERS:
        text = text.replace(f"{{{placeholder}}}", code)
    return text.replace("{Name}", code.capitalize())


def _filled_in(value: Any, code: str) -> Any:
    if isinstance(value, str):
        return _filled(value, code)
    return [_filled_in(one, code) for one in value] if isinstance(value, list) else value


def _with_data(task: Task, directory: Path) -> Task:
    """Return a task with its files in the directory of data. Raises UserError if one is not there."""
    if task.adapter != "lm_eval":
        return task
    if not task.files:
        raise UserError(f"task {task.name!r} has no local form; leave out `data`, or the task")
    files = []
    for split, stem in task.files:
        found = [path for suffix in _SUFFIXES if (path := (directory / f"{stem}{suffix}").absolute()).is_file()]
        files += [(split, path) for path in found[:1]]
        if not found and split == task.files[0][0]:  # that of the questions; others have examples
            raise UserError(
                f"data: {directory / stem} is not there, with one of the suffixes {', '.join(_SUFFIXES)}, which task "
                f"{task.name!r} reads ({task.source}); put it there, or leave out `data`, to have it from the Hub"
            )
    return replace(task, files=tuple(files))
