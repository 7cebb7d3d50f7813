"""LaTeX as text to learn from: files put together, comments and preamble gone, an author's own macros expanded.

Nothing is typeset: commands and math stay as they are written. Each step takes time in proportion to the text, whatever
is left open in it. The macros are in latex_macros.py.
"""

import posixpath
import re
from collections.abc import Callable

from data_prep.sources.formats.latex_macros import (
    LITERAL,
    Macro,
    close_literal,
    expand,
    take_macros,
    take_macros_of_body,
)

MAX_INCLUDED = 10_000
"""Most inclusions of files that are followed in one paper."""

_COMMENT = re.compile(
    r"\\begin\{comment\}|(?P<off>\\iffalse(?![A-Za-z@])\s?)"
    rf"|(?P<keep>{LITERAL}|\\.)"
    r"|(?P<line>^[ \t]*+%[^\n]*+(?:\n|\Z))"
    r"|(?P<rest>%[^\n]*+(?:\n(?![ \t]*+\n)[ \t]*+)?)",  # a blank line after it ends the paragraph all the same
    re.DOTALL | re.MULTILINE,
)
_END_COMMENT = r"\end{comment}"
_CONDITION = re.compile(r"%[^\n]*|\\[\\%]|\\(?P<word>if(?!f(?![A-Za-z@])|thenelse)[A-Za-z@]*|else|fi)(?![A-Za-z@])\s?")
_MAX_CONDITIONS, _MAX_ALL_CONDITIONS = 100, 20_000
"""Words of conditions that are looked through for the end of one, and of all in a text."""

_ASSIGNED = re.compile(r"\\let\s*\\[A-Za-z@]+\s*=?\s*\Z")
_SHORTHAND = re.compile(
    r"\\(?:def\s*+|(?:re)?newcommand\s*+\*?\s*+\{?\s*+)\\(?P<name>[A-Za-z]++)\s*+\}?\s*+"
    r"\{\s*+(?P<for>\\(?:begin|end)\s*+\{document\})\s*+\}"
)
"""A name that an author gives to the beginning or the end of the document."""

_INCLUDE = re.compile(
    r"(?<!\\)\\(?:(?:input|include|subfile(?:include)?)\s*+\{(?P<braced>[^{}]{1,500})\}"
    r"|(?P<sub>sub)?(?:import|inputfrom|includefrom)\*?\s*+\{(?P<directory>[^{}]{0,500})\}\s*+\{(?P<imported>[^{}]{1,500})\}"
    r"|input\s++(?P<bare>[^\s\\{}]++))"
)
_PACKAGE = re.compile(r"(?<!\\)\\(?:usepackage|RequirePackage)\s*+(?:\[[^\]]{0,2000}\])?\s*+\{([^{}]{1,2000})\}")
_BEGIN = re.compile(rf"(?P<keep>{LITERAL}|\\\\)|\\begin\s*+\{{document\}}", re.DOTALL)
_END = re.compile(rf"(?P<keep>{LITERAL}|\\\\)|\\end\s*+\{{document\}}", re.DOTALL)
_SETTINGS = r"\s*+(?:\[[^\]]{0,2000}\])?\s*+"
_CLASS = re.compile(
    rf"\\document(?:class|style)(?![A-Za-z])(?!{_SETTINGS}\{{subfiles\}})|\\(?:bye|magnification)(?![A-Za-z])"
)
_PART = re.compile(rf"\\document(?:class|style){_SETTINGS}\{{subfiles\}}")
_PICTURE = re.compile(rf"\\documentclass{_SETTINGS}\{{standalone\}}")
_HAS_CLASS = re.compile(r"\\document(?:class|style)(?![A-Za-z])")
_BLANK_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")

Find = Callable[[str], str | None]
"""Returns the text of a file by the name that another includes it by; None if it is not there."""


class PaperError(Exception):
    """A paper that cannot be read, for a short fixed reason and a detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def to_text(main: str, find: Find, *, max_characters: int = 1 << 28, name: str = "") -> str:
    """Return the text of a paper, given its main file, that file's own name, and a way to find the others.

    Raises PaperError if the files that are included do not end, or come to more than `max_characters`.
    """
    whole = _without_shorthands(put_together(main, find, max_characters, name=name))
    begin = _search(_BEGIN, whole)
    preamble, body = (whole[: begin.start()], whole[begin.end() :]) if begin else ("", whole)
    if end := _search(_END, body):
        body = body[: end.start()]
    macros: dict[str, Macro] = {}
    for packages in _PACKAGE.findall(preamble):
        for name in packages.split(","):
            if (package := find(f"{name.strip()}.sty")) is not None:
                take_macros(remove_comments(package), macros)
    take_macros(preamble, macros)
    body = take_macros_of_body(body, macros)
    return _BLANK_LINES.sub("\n\n", expand(body, macros)).strip() + "\n"


def put_together(main: str, find: Find, max_characters: int, *, name: str = "") -> str:
    """Return a main file, without comments, with what it includes in its place. Raises PaperError."""
    return _Inclusion(find, max_characters, name).flatten(remove_comments(main))


def _without_shorthands(text: str) -> str:
    for match in list(_SHORTHAND.finditer(text))[:4]:
        used = re.compile(rf"\\{match['name']}(?![A-Za-z])")
        text = used.sub(match["for"].replace("\\", "\\\\"), text.replace(match[0], "", 1))
    return text


def is_main(text: str) -> bool:
    """Return whether a file is one that TeX is called with: it has a class, not that of parts, or is plain TeX, or it
    begins or ends a document without being a part."""
    plain = remove_comments(text)
    is_document = _search(_BEGIN, plain) is not None or _search(_END, plain) is not None
    return _CLASS.search(plain) is not None or (is_document and not _PART.search(plain))


def begins_document(text: str) -> bool:
    """Return whether a document begins in a file itself."""
    return _search(_BEGIN, remove_comments(text)) is not None


def _search(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """Return the first match that is not in what is kept as it is written."""
    place, unclosed = 0, set[str]()
    while (match := pattern.search(text, place)) and match["keep"]:
        place = close_literal(text, match, unclosed)
    return match


def is_picture(text: str) -> bool:
    """Return whether a main file makes a picture that others put in."""
    return _PICTURE.search(remove_comments(text)) is not None


def remove_comments(text: str) -> str:
    """Return the text without comments; a comment takes its line end along, as in TeX, or the line that it fills."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    pieces, done, place, unclosed, left = list[str](), 0, 0, set[str](), _MAX_ALL_CONDITIONS
    while match := _COMMENT.search(text, place):
        if match["keep"]:
            place = close_literal(text, match, unclosed)
            continue
        place = match.end()
        if match["off"]:
            is_assigned = _ASSIGNED.search(text, max(0, match.start() - 100), match.start()) is not None
            found = None if is_assigned or left <= 0 else _find_end_of_condition(text, place)
            left -= _MAX_CONDITIONS if found is None else 0
            if found is None:
                continue
            stop, place = found
            pieces += [text[done : match.start()], stop]
            done = place
            continue
        if not (match["line"] or match["rest"]):
            end = -1 if _END_COMMENT in unclosed else text.find(_END_COMMENT, place)
            if end < 0:
                unclosed.add(_END_COMMENT)
                continue
            place = end + len(_END_COMMENT)
        pieces.append(text[done : match.start()])
        done = place
    return "".join([*pieces, text[done:]])


def _find_end_of_condition(text: str, place: int) -> tuple[str, int] | None:
    """Return what a condition that is false leaves, its `else`, and where it ends; None if it does not."""
    depth, otherwise = 0, None
    for number, match in enumerate(_CONDITION.finditer(text, place)):
        if number > _MAX_CONDITIONS:
            return None
        if match["word"] is None:
            continue
        if match["word"] == "fi":
            if depth == 0:
                return ("" if otherwise is None else remove_comments(text[otherwise : match.start()])), match.end()
            depth -= 1
        elif match["word"] == "else":
            otherwise = match.end() if depth == 0 else otherwise
        else:
            depth += 1
    return None


class _Inclusion:
    """The files of one paper, as they are put into each other."""

    def __init__(self, find: Find, max_characters: int, name: str) -> None:
        self._find = find
        self._open = [name]
        """Names of the files that are being included, each by the one before it."""

        self._num_left, self._characters_left = MAX_INCLUDED, max_characters

    def flatten(self, text: str, base: str = "") -> str:
        """Return the text with the files that it includes in their place; what is not found stays as it is written.

        So does what would include itself. Names are looked for below `base` first, a directory within the paper.
        """
        return _INCLUDE.sub(lambda match: self._include(match, base), text)

    def _include(self, match: re.Match[str], base: str) -> str:
        if match["imported"]:
            base = posixpath.join(base if match["sub"] else "", match["directory"].strip())
        wanted = (match["imported"] or match["braced"] or match["bare"]).strip()
        places = dict.fromkeys(posixpath.normpath(posixpath.join(at, wanted)) for at in (base, ""))
        for name in (written for place in places for written in (place, f"{place}.tex")):
            if name not in self._open and (found := self._find(name)) is not None:
                return self._put_in(name, found, base)
        return match[0]

    def _put_in(self, name: str, found: str, base: str) -> str:
        own = remove_comments(found)
        begin = _search(_BEGIN, own)
        if begin and _HAS_CLASS.search(own, 0, begin.start()):  # a part, which has a preamble of its own
            end = _search(_END, own)
            own = own[begin.end() : end.start() if end else len(own)]
        self._num_left -= 1
        self._characters_left -= len(own)
        if self._num_left < 0 or self._characters_left < 0:
            raise PaperError("too_large", "its files include each other too often")
        self._open.append(name)
        text = self.flatten(own, base)
        self._open.pop()
        return text
