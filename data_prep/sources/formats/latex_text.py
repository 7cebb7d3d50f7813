"""LaTeX as text to learn from: files put together, comments and preamble gone, an author's own macros expanded.

Nothing is typeset: commands and math stay as they are written. Macros are expanded as TeX does, by putting the body in
their place, if the body only writes; one that computes, branches or defines is left alone. So is all of a text whose
macros never end.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

MAX_DEPTH = 30
"""Deepest nesting of files, and of macros, that is followed."""

_VERBATIM = r"\\begin\{(?P<env>verbatim\*?|Verbatim\*?|lstlisting|minted|alltt|filecontents\*?)\}.*?\\end\{(?P=env)\}"
_LITERAL = rf"{_VERBATIM}|\\verb\*?(?P<bar>[^\sA-Za-z*]).*?(?P=bar)|\\(?:url|path|href)\s*\{{[^{{}}\n]*\}}"
_COMMENT = re.compile(
    r"(?P<block>\\begin\{comment\}.*?\\end\{comment\})"
    rf"|(?P<keep>{_LITERAL}|\\.)"
    r"|(?P<line>^[ \t]*%[^\n]*(?:\n|\Z))"
    r"|(?P<rest>%[^\n]*\n?[ \t]*)",
    re.DOTALL | re.MULTILINE,
)
_INCLUDE = re.compile(r"(?<!\\)\\(?:(?:input|include|subfile)\s*\{\s*([^{}]+?)\s*\}|input\s+([^\s\\{}]+))")
_PACKAGE = re.compile(r"(?<!\\)\\(?:usepackage|RequirePackage)\s*(?:\[[^\]]*\])?\s*\{([^{}]+)\}")
_DEFINITION = re.compile(
    r"(?<!\\)\\(?P<kind>(?:re)?newcommand|providecommand|DeclareRobustCommand|DeclareMathOperator|def)\*?"
    r"\s*\{?\s*\\(?P<name>[A-Za-z]+)\s*\}?"
)
_BEGIN, _END = re.compile(r"\\begin\s*\{document\}"), re.compile(r"\\end\s*\{document\}")
_CLASS = re.compile(r"\\document(?:class|style)\b")
_UNSAFE = re.compile(
    r"\\(?:[egx]?def|let|futurelet|(?:re)?newcommand|providecommand|csname|catcode|expandafter|global|advance|the|if\w*|else|fi"
    r"|or|loop|repeat|begingroup|endgroup|noexpand|afterassignment|read|write|openin|openout|input|include)(?![A-Za-z])|@"
)
_BLANK_LINES = re.compile(r"\n[ \t]*\n(?:[ \t]*\n)+")
_MAX_EXPANSIONS = 200_000

Find = Callable[[str], str | None]
"""Returns the text of a file by the name that another includes it by; None if it is not there."""


@dataclass(frozen=True)
class Macro:
    """A command that an author has defined."""

    num_arguments: int
    default: str | None
    """Of the first argument, where it may be left out."""

    body: str


class _Endless(Exception):
    """Macros that go on for ever, or nearly."""


def to_text(main: str, find: Find) -> str:
    """Return the text of a paper, given its main file and a way to find the others."""
    whole = flatten(remove_comments(main), find)
    begin = _BEGIN.search(whole)
    preamble, body = (whole[: begin.start()], whole[begin.end() :]) if begin else ("", whole)
    if end := _END.search(body):
        body = body[: end.start()]
    macros: dict[str, Macro] = {}
    for packages in _PACKAGE.findall(preamble):
        for name in packages.split(","):
            if (package := find(f"{name.strip()}.sty")) is not None:
                take_macros(remove_comments(package), macros)
    take_macros(preamble, macros)
    body = take_macros(body, macros)
    return _BLANK_LINES.sub("\n\n", expand(body, macros)).strip() + "\n"


def is_main(text: str) -> bool:
    """Return whether a file is one that LaTeX is called with."""
    return _CLASS.search(remove_comments(text)) is not None


def remove_comments(text: str) -> str:
    """Return the text without comments; a comment takes its line end along, as in TeX, or the line that it fills."""
    return _COMMENT.sub(lambda match: match["keep"] or "", text.replace("\r\n", "\n").replace("\r", "\n"))


def flatten(text: str, find: Find, depth: int = 0) -> str:
    """Return the text with the files that it includes in their place; what is not found stays as it is written."""

    def include(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = find(name) if depth < MAX_DEPTH else None
        if found is None and not name.endswith(".tex") and depth < MAX_DEPTH:
            found = find(f"{name}.tex")
        if found is None:
            return match[0]
        own = remove_comments(found)
        begin, end = _BEGIN.search(own), _END.search(own)
        if begin:  # a subfile, which has a preamble of its own
            own = own[begin.end() : end.start() if end else len(own)]
        return flatten(own, find, depth + 1)

    return _INCLUDE.sub(include, text)


def take_macros(text: str, macros: dict[str, Macro]) -> str:
    """Add the macros that a text defines, as far as they are safe to expand; return the text without these."""
    pieces, done = [], 0
    for match in _DEFINITION.finditer(text):
        if match.start() < done or (found := _read_definition(text, match, macros)) is None:
            continue
        macro, end = found
        macros[match["name"]] = macro
        pieces.append(text[done : match.start()])
        fills_line = text[match.start() - 1 : match.start()] in ("", "\n") and text[end : end + 1] == "\n"
        done = end + fills_line
    return "".join([*pieces, text[done:]])


def _read_definition(text: str, match: re.Match[str], macros: Mapping[str, Macro]) -> tuple[Macro, int] | None:
    """Return a macro and where its definition ends; None if it is not to be expanded."""
    kind, place, default, number = match["kind"], match.end(), None, 0
    if kind == "renewcommand" and match["name"] not in macros:  # a command of LaTeX, which others know, too
        return None
    if kind == "providecommand" and match["name"] in macros:
        return None
    if kind == "def":
        parameters = re.compile(r"(?:#[1-9])*(?=\{)").match(text, place)
        if parameters is None or parameters[0] != "".join(f"#{i}" for i in range(1, len(parameters[0]) // 2 + 1)):
            return None
        number, place = len(parameters[0]) // 2, parameters.end()
    elif kind != "DeclareMathOperator":
        if counted := re.compile(r"\s*\[\s*([0-9])\s*\]").match(text, place):
            number, place = int(counted[1]), counted.end()
        if number and (given := _read_optional(text, place)) is not None:
            default, place = given
    group = _read_group(text, place)
    if group is None or _UNSAFE.search(group[0]):
        return None
    body = f"\\operatorname{{{group[0]}}}" if kind == "DeclareMathOperator" else group[0]
    return Macro(number, default, body), group[1]


def expand(text: str, macros: Mapping[str, Macro]) -> str:
    """Return the text with its macros expanded; as it is, if they do not end or make it many times as long."""
    if not macros:
        return text
    names = "|".join(sorted(macros, key=len, reverse=True))
    pattern = re.compile(rf"(?P<keep>{_LITERAL}|\\\\)|\\(?P<name>{names})(?![A-Za-z@])", re.DOTALL)
    left = [_MAX_EXPANSIONS, 10_000_000 + 8 * len(text)]
    try:
        return "".join(_expand(text, macros, pattern, 0, left))
    except _Endless:
        return text


def _expand(
    text: str, macros: Mapping[str, Macro], pattern: re.Pattern[str], depth: int, left: list[int]
) -> Iterator[str]:
    """Yield the pieces of an expanded text. `left` has the expansions and characters that may still come."""
    done = 0
    while match := pattern.search(text, done):
        if match["keep"]:
            yield text[done : match.end()]
            done = match.end()
            continue
        yield text[done : match.start()]
        macro, done = macros[match["name"]], match.end()
        found = _read_arguments(text, done, macro)
        if found is None:
            yield match[0]
            continue
        arguments, done = found
        body = _fill(macro.body, arguments)
        left[0], left[1] = left[0] - 1, left[1] - len(body)
        if depth > MAX_DEPTH or min(left) < 0:
            raise _Endless
        expanded = "".join(_expand(body, macros, pattern, depth + 1, left))
        yield expanded
        if re.search(r"\\[A-Za-z]+\Z", expanded) and text[done : done + 1].isalpha():
            yield " "  # else the letter would belong to the command's name
    yield text[done:]


def _fill(body: str, arguments: list[str]) -> str:
    """Return the body of a macro with its arguments in their places."""
    return re.sub(r"#([1-9])", lambda place: "".join(arguments[int(place[1]) - 1 : int(place[1])]), body)


def _read_arguments(text: str, place: int, macro: Macro) -> tuple[list[str], int] | None:
    """Return the arguments of a macro and where they end; None if they are not all there."""
    arguments = []
    if macro.default is not None:
        optional = _read_optional(text, place)
        arguments.append(macro.default if optional is None else optional[0])
        place = place if optional is None else optional[1]
    while len(arguments) < macro.num_arguments:
        token = re.compile(r"\s*(\\[A-Za-z]+|\\.|[^\s{}\\])?", re.DOTALL).match(text, place)
        group = _read_group(text, place)
        if group is not None:
            arguments.append(group[0])
            place = group[1]
        elif token is not None and token[1]:
            arguments.append(token[1])
            place = token.end()
        else:
            return None
    return arguments, place


def _read_group(text: str, place: int) -> tuple[str, int] | None:
    """Return what the braces hold that begin at a place, and where they end; None if there are none, or no end."""
    begin = re.compile(r"\s*\{").match(text, place)
    return _read_balanced(text, begin.end(), "}") if begin else None


def _read_optional(text: str, place: int) -> tuple[str, int] | None:
    begin = re.compile(r"\s*\[").match(text, place)
    return _read_balanced(text, begin.end(), "]") if begin else None


_BRACE = re.compile(r"\\.|[{}\]]", re.DOTALL)


def _read_balanced(text: str, start: int, closing: str) -> tuple[str, int] | None:
    depth = 0
    for match in _BRACE.finditer(text, start):
        if match[0] == closing and depth == 0:
            return text[start : match.start()], match.end()
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth < 0:
            return None
    return None
