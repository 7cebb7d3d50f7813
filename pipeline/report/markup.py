"""HTML that is safe by construction: every string is escaped, unless it was made here."""

import html
from collections.abc import Iterable, Sequence

NOTHING = "\u2013"
"""An en dash, where there is no number to show."""


class Html(str):
    """Text that is markup already. Any other string is data, and is escaped where it becomes part of a page."""

    __slots__ = ()


def escape(text: str) -> Html:
    """Return the text as markup; Html stays as it is."""
    return text if isinstance(text, Html) else Html(html.escape(text))


def join(parts: Iterable[str], separator: str = "") -> Html:
    """Return the parts side by side, escaped."""
    return Html(separator.join(escape(part) for part in parts))


def element(name: str, *children: str, **attributes: str) -> Html:
    """Return `<name attributes>children</name>`; there are no void elements.

    Attributes are Python identifiers: `class_` is class, `text_anchor` is text-anchor.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items()
    )
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, total: Sequence[str] = (), num_text: int = 1
) -> Html:
    """Return a table in a box that scrolls by itself. The first cell of a row is the row's heading.

    The first `num_text` columns are text; the others are numbers, aligned to the right.
    """
    head = element("thead", element("tr", *_cells(heads, num_text, scope="col")))
    body = element("tbody", *[_row(row, num_text) for row in rows])
    foot = element("tfoot", _row(total, num_text)) if total else Html()
    whole = element("table", element("caption", caption), head, body, foot)
    return element("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption)


def facts(pairs: Iterable[tuple[str, str]], *, class_: str = "facts") -> Html:
    """Return names and values as a description list."""
    rows = [element("div", element("dt", name), element("dd", value)) for name, value in pairs]
    return element("dl", *rows, class_=class_)


def section(identifier: str, heading: str, *children: str) -> Html:
    """Return a part of the page with its heading, which can be linked to."""
    title = element("h2", heading, id=f"{identifier}-heading")
    return element("section", title, *children, id=identifier, aria_labelledby=f"{identifier}-heading")


def code(text: str) -> Html:
    """Mark up a name or a digest, which no translator should touch."""
    return element("code", text, translate="no")


def _row(cells: Sequence[str], num_text: int) -> Html:
    first = element("th", cells[0], scope="row", translate="no")
    return element("tr", first, *_data(cells[1:], num_text - 1))


def _data(cells: Sequence[str], num_text: int) -> list[Html]:
    return [element("td", cell, class_=_kind(i, cell, num_text)) for i, cell in enumerate(cells)]


def _cells(heads: Sequence[str], num_text: int, *, scope: str) -> list[Html]:
    return [element("th", head, scope=scope, class_=_kind(i, head, num_text)) for i, head in enumerate(heads)]


def _kind(column: int, cell: str, num_text: int) -> str:
    if column < num_text:
        return "text"
    return "number zero" if cell == "0" else "number"
