"""Renders the page: jinja2 templates, the shipped ones or a user's own, with every value escaped by the engine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cluster.host.redact import redact
from configs.base import UserError
from configs.text import one_line
from pipeline.report.results import share
from training.manifests import counted

PAGE = "page.html.j2"
STYLE = "style.css"
TEMPLATES = Path(__file__).parent / "templates"
"""The shipped templates and the style sheet. A file of the same name in a user's directory takes the place of one."""


def render_page(templates: str | None, values: Mapping[str, Any]) -> str:
    """Return the page. Raises UserError, with file and line, if a template of the user's own fails."""
    try:
        folders = _folders(templates)
        style = next(folder / STYLE for folder in folders if (folder / STYLE).is_file())
        # It is put in as it is: to a template engine, CSS may hold a comment that begins with `{#`.
        sheet = Markup(style.read_text(encoding="utf-8"))
        return make_environment(folders).get_template(PAGE).render(values, style=sheet)
    except Exception as error:
        if templates is None:
            raise
        raise UserError(f"{_place(error, Path(templates))}: {_problem(error)}; mend the template") from error


def check_templates(templates: str | None) -> None:
    """Raise UserError if the directory holds no file that the page uses, or one that does not parse."""
    if templates is None:
        return
    files = _replaced(Path(templates))
    if not files:
        known = ", ".join(sorted(path.name for path in TEMPLATES.iterdir()))
        raise UserError(f"{templates} holds no file of a page ({known}); copy one there, and edit it")
    environment = make_environment(_folders(templates))
    for name in files:
        if name == STYLE:
            continue
        try:
            environment.get_template(name)
        except (jinja2.TemplateError, UnicodeDecodeError) as error:
            raise UserError(f"{_place(error, Path(templates, name))}: {_problem(error)}; mend the template") from error


def list_files(templates: str) -> list[Path]:
    """Return every file of a user's directory of templates, as one may include another; none if no page uses it.

    Raises UserError if there is no such directory.
    """
    directory = Path(templates)
    if not directory.is_dir():
        raise UserError(f"there is no directory {templates} (seen from {Path.cwd()}); name one that holds templates")
    return sorted(path for path in directory.rglob("*") if path.is_file()) if _replaced(directory) else []


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
        "share": share,
        "px": "{:.1f}".format,
        "pct": "{:.3f}%".format,
    }
    return environment


def _replaced(directory: Path) -> list[str]:
    """Return the names of the shipped files whose place is taken by one in the directory."""
    return sorted(path.name for path in TEMPLATES.iterdir() if (directory / path.name).is_file())


def _folders(templates: str | None) -> list[Path]:
    return [TEMPLATES] if templates is None else [Path(templates), TEMPLATES]


def _without_secrets(value: object) -> object:
    """Return what a template prints, without secrets: before it is escaped, which would hide one from the search."""
    return redact(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _place(error: BaseException, fallback: Path) -> str:
    """Return the file and line of a template that an error comes from."""
    if isinstance(error, jinja2.TemplateSyntaxError):
        return f"{error.filename or fallback}:{error.lineno}"
    names, place, trace = {path.name for path in TEMPLATES.iterdir()}, str(fallback), error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if Path(file).name in names:
            place = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _problem(error: BaseException) -> str:
    words = one_line(error)
    return words if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {words}"
