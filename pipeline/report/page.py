"""Renders the page: jinja2 templates, the shipped ones or a user's own, with every value escaped by the engine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cluster.host.redact import redact
from cluster.storage.errors import error_class
from configs.base import UserError
from configs.text import one_line
from training.manifests import counted

PAGE = "page.html.j2"
STYLE = "style.css"
SCRIPT = "sort.js"
TEMPLATES = Path(__file__).parent / "templates"
"""The shipped templates, style sheet and script. A file of a user's that has the name of one takes its place."""


def render_page(templates: str | None, values: Mapping[str, Any]) -> str:
    """Return the page. Raises UserError, with file and line, if a template of the user's own fails."""
    folders = _folders(templates)
    try:
        inlined = {"style": _read_plain(folders, STYLE), "script": _read_plain(folders, SCRIPT)}
        page = make_environment(folders).get_template(PAGE).render(values, **inlined)
    except (UserError, MemoryError):  # such as a signal that ends the run: no fault of a template
        raise
    except Exception as error:
        if templates is None:
            raise
        raise _explain(error, templates, PAGE) from error
    if not page.strip():
        raise UserError(f"{templates}/{PAGE} gives an empty page; mend the template")
    return page


def check_templates(templates: str | None) -> None:
    """Raise UserError if the directory holds no file that the page uses, or one that does not parse."""
    if templates is None:
        return
    files = list_files(templates)
    if not files:
        known = ", ".join(sorted(path.name for path in TEMPLATES.iterdir()))
        raise UserError(f"{templates} holds no file of a page ({known}); copy one there, and edit it")
    folders = _folders(templates)
    for file in files:
        name = str(file.relative_to(templates))
        try:
            if name in (STYLE, SCRIPT):
                _read_plain(folders, name)
            elif file.suffix == ".j2":
                make_environment(folders).get_template(name)
        except (jinja2.TemplateError, UnicodeDecodeError, OSError) as error:
            raise _explain(error, templates, name) from error


def list_files(templates: str) -> list[Path]:
    """Return every file of a user's directory of templates, as one may include another; none if no page uses it.

    Raises UserError if there is no such directory, or it cannot be read.
    """
    directory = Path(templates)
    if not directory.is_dir():
        raise UserError(f"there is no directory {templates} (seen from {Path.cwd()}); name one that holds templates")
    try:
        names = {path.name for path in directory.iterdir()}
        used = names & {path.name for path in TEMPLATES.iterdir()}
        files = sorted(path for path in directory.rglob("*") if path.is_file()) if used else []
        for file in files:
            file.open("rb").close()
    except OSError as error:
        raise _explain(error, templates, "") from error
    return files


def make_environment(folders: Sequence[Path]) -> jinja2.Environment:
    """Return the engine; of two files of one name it takes that of the first folder."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(list(folders)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_without_secrets,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "count": "{:,}".format,
        "counted": counted,
        "px": "{:.1f}".format,
        "pct": "{:.3f}%".format,
    }
    return environment


def _read_plain(folders: Sequence[Path], name: str) -> Markup:
    """Return a file as it is: to a template engine, CSS or a script may hold a comment that begins with `{#`."""
    file = next(folder / name for folder in folders if (folder / name).is_file())
    return Markup(file.read_text(encoding="utf-8"))


def _folders(templates: str | None) -> list[Path]:
    return [TEMPLATES] if templates is None else [Path(templates), TEMPLATES]


def _without_secrets(value: object) -> object:
    """Return what a template prints, without secrets: before it is escaped, which would hide one from the search."""
    return redact(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _explain(error: Exception, templates: str, name: str) -> UserError:
    """Return the sentence for what went wrong with a user's own templates; `name` is the file, if nothing tells it."""
    if isinstance(error, OSError) and not isinstance(error, jinja2.TemplateError):  # TemplateNotFound is both
        place = error.filename or Path(templates, name)
        return error_class(error)(f"{place} cannot be read ({error.strerror or error}); mend that, or take it out")
    problem = one_line(error)
    if isinstance(error, UnicodeDecodeError):
        problem = f"it is not UTF-8 ({problem})"
    elif not isinstance(error, jinja2.TemplateError):
        problem = f"{type(error).__name__}: {problem}"
    return UserError(f"{_place(error, templates, name)}: {problem}; mend the templates in {templates}")


def _place(error: Exception, templates: str, name: str) -> str:
    """Return the file and line of a template that an error comes from: of the innermost one that was being drawn."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.filename or Path(templates, name)}:{error.lineno}"
    place, trace = str(Path(templates, name)), error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if any(file.is_relative_to(folder) for folder in _folders(templates)):
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
