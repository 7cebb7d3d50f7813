r"""Spans of a text that are no prose: mathematics, code and tables, in Markdown, reStructuredText and LaTeX.

What judges prose, by its words and symbols, looks past them, and what changes text leaves them as they are. Every step
is linear in the length of the text: a span that is not closed within MAX_CHARACTERS is none, nor is mathematics with a
blank line in it; but a fence of backquotes that is not closed ends with the text, as in CommonMark.

Dollars follow Pandoc's rule (`tex_math_dollars`): the opening one has a character that is no space at its right, the
closing one such a character at its left and no digit at its right.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

MATH, CODE, TABLE = "math", "code", "table"

MAX_CHARACTERS = 20_000
"""Longest span of mathematics, and environment of LaTeX."""

MAX_INLINE_CHARACTERS = 1000
"""Longest span between single dollars or backquotes."""

MARKS = "".join(map(chr, range(0xF0000, 0xFFFFE)))
"""Characters of private use that stand for spans."""

_MATHS = (
    "equation|align|alignat|gather|multline|flalign|eqnarray|math|displaymath|dmath|split|cases|matrix|pmatrix|bmatrix"
)
_TABLES = "tabular|tabularx|tabulary|longtable|array|table"
_CODES = "verbatim|lstlisting|minted|Verbatim|alltt|algorithm|algorithmic"
_KINDS = {name: kind for kind, names in ((MATH, _MATHS), (TABLE, _TABLES), (CODE, _CODES)) for name in names.split("|")}

_DIRECTIVES = {"math": MATH, "table": TABLE, "list-table": TABLE, "csv-table": TABLE}
_DIRECTIVE = re.compile(
    r"^(?P<indent>[ \t]*)(?:\.\. (?P<name>math|code-block|code|sourcecode|parsed-literal|ipython|plot|doctest|testcode"
    r"|table|list-table|csv-table)::[^\n]*|(?:[^\s.][^\n]{0,500})?::[ \t]*)$",
    re.M,
)

_HINT = re.compile(r"[$`|\\]|>>>|~~~|<math|::")
"""What every span has one of."""

_LINES = re.compile(
    r"^[ \t]*(?P<fence>`{3,}|~{3,})[^`\n]*$|^[ \t]*(?P<row>\|.*\|)[ \t]*$|^[ \t]*(?P<prompt>>>> )|^(?P<blank>[ \t]*)$",
    re.M,
)
_TOKEN = re.compile(
    r"\\(?P<env>begin|end)\{(?P<name>[A-Za-z]+)\*?\}|\\(?P<bracket>[\[\]()])|\\[\\$`]|(?P<dollars>\$\$?)|(?P<ticks>`+)"
    r"|</?(?P<tag>math)\b[^>\n]{0,300}>|(?P<blank>\n[ \t]*\n)"
)
_SENTENCE_END = re.compile(r"[.!?]\s+[A-Z]")
"""What two dollars that are prices have between them: `$5. Write to us: 3$`."""

_CLOSING = {"[": "]", "(": ")"}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text, from `start` to before `stop`, in characters."""

    start: int
    stop: int
    kind: str
    """MATH, CODE or TABLE."""


@dataclass(frozen=True, slots=True)
class Spans:
    """What of a text is no prose, in order and without overlaps."""

    spans: tuple[Span, ...]
    num_unbalanced: int
    r"""Delimiters of mathematics without their other half: `$$`, `\[`, `\(` and environments; single dollars are not
    counted, since most are prices."""

    def prose(self, text: str) -> str:
        """Return the text with a space in the place of each span."""
        return self._replace(text, lambda _: " ")

    def marked(self, text: str) -> str:
        """Return the text with a character of its own, among MARKS, in the place of each span.

        So lines and runs of words with other formulas in them are not the same.
        """
        return self._replace(text, lambda number: f" {MARKS[number % len(MARKS)]} ")

    def _replace(self, text: str, by: Callable[[int], str]) -> str:
        if not self.spans:
            return text
        pieces, done = list[str](), 0
        for number, span in enumerate(self.spans):
            pieces += [text[done : span.start], by(number)]
            done = span.stop
        return "".join([*pieces, text[done:]])


NO_SPANS = Spans((), 0)


def find_spans(text: str) -> Spans:
    """Find the mathematics, the code and the tables of a text."""
    if not _HINT.search(text):
        return NO_SPANS
    blocks = _merge([*_find_directives(text), *_find_blocks(text)])
    found, unbalanced = list(blocks), 0
    done = 0
    for start, stop in [*((block.start, block.stop) for block in blocks), (len(text), len(text))]:
        scanner = _Scanner(text, done, start)
        scanner.scan()
        found += scanner.spans
        unbalanced += scanner.num_unbalanced
        done = stop
    return Spans(tuple(sorted(found, key=lambda span: span.start)), unbalanced)


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, those that overlap as one, of the kind of the first."""
    merged = list[Span]()
    for span in sorted(spans, key=lambda one: (one.start, -one.stop)):
        if merged and span.start < merged[-1].stop:
            first = merged.pop()
            span = Span(first.start, max(first.stop, span.stop), first.kind)
        merged.append(span)
    return merged


def _find_directives(text: str) -> Iterator[Span]:
    """Yield what reStructuredText indents below a directive or a paragraph that ends with `::`."""
    done = 0
    for mark in _DIRECTIVE.finditer(text):
        if mark.start() < done:
            continue
        indent, stop, begin = len(mark["indent"].expandtabs()), mark.end(), mark.end() + 1
        while begin <= len(text):
            end = text.find("\n", begin)
            end = len(text) if end < 0 else end
            line = text[begin:end].expandtabs()
            if line.strip():
                if len(line) - len(line.lstrip()) <= indent:
                    break
                stop = end
            begin = end + 1
        if stop > mark.end():
            start = mark.start() if mark["name"] else mark.end()
            yield Span(start, stop, _DIRECTIVES.get(mark["name"] or "", CODE))
            done = stop


def _find_blocks(text: str) -> Iterator[Span]:
    """Yield what whole lines make: fences, tables of two rows or more, and sessions of Python."""
    fence, fence_start = "", 0
    rows: list[re.Match[str]] = []
    session: int | None = None
    for line in _LINES.finditer(text):
        if fence:
            mark = line["fence"]
            if mark and mark[0] == fence[0] and len(mark) >= len(fence) and line[0].strip() == mark:
                yield Span(fence_start, line.end(), CODE)
                fence = ""
            continue
        if session is not None and line["blank"] is not None:
            yield Span(session, line.start(), CODE)
            session = None
        if session is not None:
            continue
        if rows and (line["row"] is None or line.start() != rows[-1].end() + 1):
            yield from _table(rows)
            rows = []
        if line["row"]:
            rows.append(line)
        elif line["fence"] and not _is_underline(text, line):
            fence, fence_start = line["fence"], line.start()
        elif line["prompt"]:
            session = line.start()
    if fence.startswith("`") or session is not None:
        yield Span(fence_start if fence else session or 0, len(text), CODE)
    yield from _table(rows)


def _is_underline(text: str, line: re.Match[str]) -> bool:
    """Return whether a line of tildes stands below a title, as in reStructuredText."""
    before = text[max(0, line.start() - 300) : max(0, line.start() - 1)]
    return line[0].strip("~ \t") == "" and bool(before.rpartition("\n")[2].strip())


def _table(rows: list[re.Match[str]]) -> Iterator[Span]:
    if len(rows) > 1:
        yield Span(rows[0].start(), rows[-1].end(), TABLE)


class _Scanner:
    """Reads the delimiters of a stretch of text one after the other; what is open waits for its other half."""

    def __init__(self, text: str, start: int, stop: int) -> None:
        self.spans: list[Span] = []
        self.num_unbalanced = 0
        self._text, self._start, self._stop = text, start, stop
        self._open: tuple[str, int, int] | None = None
        """What closes it, where it began, and how long it may be."""

        self._depth = 0
        """Depth of environments of one name within each other."""

    def scan(self) -> None:
        """Find the spans of the stretch."""
        for token in _TOKEN.finditer(self._text, self._start, self._stop):
            if self._open and token.start() - self._open[1] > self._open[2]:
                self._give_up()
            if self._open:
                self._take_inside(token)
            else:
                self._take_outside(token)
        if self._open:
            self._give_up()

    def _take_inside(self, token: re.Match[str]) -> None:
        assert self._open is not None
        closing = self._open[0]
        if token["env"] and closing.startswith("env "):
            if token["name"] == closing[4:]:
                self._depth += 1 if token["env"] == "begin" else -1
                if not self._depth:
                    self._close(token.end(), _KINDS[token["name"]])
        elif token["dollars"] and closing in ("$", token["dollars"]):
            self._take_dollars(token, closing)
        elif closing[0] == "`" and (token["ticks"] == closing or (closing == "`" and token[0] == "\\`")):
            self._take_ticks(token, closing)
        elif token["bracket"] == closing or (closing == "math" and token["tag"] and token[0].startswith("</")):
            self._close(token.end(), MATH)
        elif (token["blank"] and self._kind_of(closing) == MATH) or (token["blank"] and closing[0] == "`"):
            self._give_up()
        elif token["bracket"] and _CLOSING.get(token["bracket"]) == closing:  # opened twice: the first has no end
            self._give_up()
            self._open = (closing, token.start(), MAX_CHARACTERS)

    def _take_dollars(self, token: re.Match[str], closing: str) -> None:
        if closing == "$$":
            self._close(token.end(), MATH)
        elif token["dollars"] == "$$":  # one formula ends and the next begins
            self._close(token.start() + 1, MATH)
            if self._opens_dollar(token):
                self._open = ("$", token.start() + 1, MAX_INLINE_CHARACTERS)
        elif self._closes_dollar(token):
            self._close(token.end(), MATH)
        else:
            self._give_up()
            self._take_outside(token)

    def _take_ticks(self, token: re.Match[str], closing: str) -> None:
        assert self._open is not None
        inside = self._text[self._open[1] + len(closing) : token.end() - len(closing)]
        if inside[-1:].isspace() and not inside[:1].isspace():  # quotes of LaTeX: ``one'' and ``two''
            self._give_up()
            self._take_outside(token)
        else:
            self._close(token.end(), CODE)

    def _take_outside(self, token: re.Match[str]) -> None:
        start = token.start()
        if token["env"] and token["name"] in _KINDS:
            if token["env"] == "begin":
                self._open, self._depth = (f"env {token['name']}", start, MAX_CHARACTERS), 1
            else:
                self.num_unbalanced += _KINDS[token["name"]] == MATH
        elif token["bracket"]:
            if closing := _CLOSING.get(token["bracket"]):
                self._open = (closing, start, MAX_CHARACTERS)
            else:
                self.num_unbalanced += 1
        elif token["dollars"] == "$$":
            self._open = ("$$", start, MAX_CHARACTERS)
        elif token["dollars"] and self._opens_dollar(token):
            self._open = ("$", start, MAX_INLINE_CHARACTERS)
        elif token["ticks"]:
            self._open = (token["ticks"], start, MAX_INLINE_CHARACTERS)
        elif token["tag"] and not token[0].startswith("</"):
            self._open = ("math", start, MAX_CHARACTERS)

    def _opens_dollar(self, token: re.Match[str]) -> bool:
        after = self._text[token.end() : token.end() + 1]
        return bool(after) and not after.isspace()

    def _closes_dollar(self, token: re.Match[str]) -> bool:
        before, after = self._text[token.start() - 1], self._text[token.end() : token.end() + 1]
        assert self._open is not None
        inside = self._text[self._open[1] : token.start()]
        is_prose = "@" in inside or _SENTENCE_END.search(inside)
        return not before.isspace() and not after.isdigit() and not is_prose

    def _close(self, stop: int, kind: str) -> None:
        assert self._open is not None
        self.spans.append(Span(self._open[1], stop, kind))
        self._open = None

    def _give_up(self) -> None:
        assert self._open is not None
        closing = self._open[0]
        self.num_unbalanced += closing != "$" and self._kind_of(closing) == MATH
        self._open = None

    def _kind_of(self, closing: str) -> str:
        """Return what ends so."""
        if closing.startswith("env "):
            return _KINDS[closing[4:]]
        return CODE if closing[0] == "`" else MATH
