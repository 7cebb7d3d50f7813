"""Macros of LaTeX: read from where an author defines them, and expanded where they are used.

They are expanded as TeX does, by putting the body in their place, if the body only writes; one that computes, branches
or defines is left alone. So is all of a text whose macros never end.
"""

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

MAX_DEPTH = 30
"""Deepest nesting of macros that is followed."""

MAX_BODY_CHARACTERS = 20_000
"""A macro that is longer is left alone."""

_MAX_EXPANSIONS = 200_000

_VERBATIM = r"\\begin\{(?P<env>verbatim\*?|Verbatim\*?|lstlisting|minted|alltt|filecontents\*?)\}"
_OPTIONS = r"(?:\[[^\]\n]{0,200}\])?"
_INLINE = rf"\\(?:verb\*?|lstinline{_OPTIONS}|mintinline{_OPTIONS}\{{\w{{1,30}}\}})"
LITERAL = (
    rf"{_VERBATIM}|{_INLINE}(?P<bar>[^\sA-Za-z*{{])[^\n]{{0,1000}}?(?P=bar)"
    r"|\\(?:url|path|nolinkurl)(?P<quote>[|!\"+])[^\n]{0,1000}?(?P=quote)"
    rf"|(?:\\(?:url|path|href|nolinkurl)|{_INLINE})\s*+\{{[^{{}}\n]*+\}}"
)
"""The pattern of what is kept as it is written. Where it matches the beginning of an environment, `close_literal` finds
the end."""

_DEFINITION = re.compile(
    r"(?<!\\)\\(?P<kind>(?:re)?newcommand|providecommand|DeclareRobustCommand|DeclareMathOperator|def)\*?"
    r"\s*+\{?\s*+\\(?P<name>[A-Za-z]++)\s*+\}?"
)
_ANY_DEFINITION = re.compile(
    r"(?<!\\)\\(?:(?P<kind>(?:re)?newcommand|providecommand|DeclareRobustCommand|DeclareMathOperator|[egx]?def"
    r"|(?:New|Renew|Provide|Declare)DocumentCommand)\*?\s*+\{?\s*+|let\s*+)\\(?P<name>[A-Za-z]++)(?:\s*+=?\s*+\\(?P<as>[A-Za-z]++))?"
)
_UNSAFE = re.compile(
    r"\\(?:[egx]?def|let|futurelet|(?:re)?newcommand|providecommand|csname|catcode|expandafter|global|advance|the|if\w*|else|fi"
    r"|or|loop|repeat|begingroup|endgroup|noexpand|afterassignment|read|write|openin|openout|input|include)(?![A-Za-z])|@"
)
_USE = re.compile(rf"(?P<keep>{LITERAL}|\\\\)|\\(?P<name>[A-Za-z]++)(?!@)", re.DOTALL)
_PARAMETERS, _COUNT = re.compile(r"(?:#[1-9])*+(?=\{)"), re.compile(r"\s*+\[\s*+([0-9])\s*+\]")
_SPACES, _OPTIONAL = re.compile(r"\s*+"), re.compile(r"\s*+\[")
_TOKEN = re.compile(r"\s*+(\\[A-Za-z]+|\\.|[^\s{}\\])", re.DOTALL)
_BRACE = re.compile(r"\\.|[{}\]]", re.DOTALL)
_ENDS_IN_COMMAND = re.compile(r"\\[A-Za-z]{1,200}\Z")
_MAX_OPTIONAL = 300


@dataclass(frozen=True)
class Macro:
    """A command that an author has defined."""

    num_arguments: int
    default: str | None
    """Default of the first argument, where it may be left out."""

    body: str


class _Endless(Exception):
    """Macros that go on for ever, or nearly."""


def close_literal(text: str, match: re.Match[str], unclosed: set[str]) -> int:
    """Return where a match of LITERAL ends: an environment at its end, if it has one, else at its beginning.

    `unclosed` has the ends that are not in the rest of the text, so that each is looked for once.
    """
    if not match["env"]:
        return match.end()
    closing = f"\\end{{{match['env']}}}"
    end = -1 if closing in unclosed else text.find(closing, match.end())
    if end < 0:
        unclosed.add(closing)
        return match.end()
    return end + len(closing)


def take_macros(text: str, macros: dict[str, Macro]) -> str:
    """Add the macros that a preamble defines, as far as they are safe to expand; the last definition of a name counts.

    Returns the text without these definitions.
    """
    definitions = list(_list_definitions(text, macros))
    return _take(text, macros, definitions, leaving=_find_spoiled(text, definitions))


def _take(
    text: str, macros: dict[str, Macro], definitions: Sequence[tuple[int, int, str, Macro]], *, leaving: set[str]
) -> str:
    """Add what is defined to the macros, and take it out of the text; names in `leaving` are no macros, and stay."""
    pieces, done = [], 0
    for start, end, name, macro in definitions:
        if name not in leaving:
            macros[name] = macro
            pieces.append(text[done:start])
            done = end
    for name in leaving:
        macros.pop(name, None)
    return "".join([*pieces, text[done:]])


def _find_spoiled(text: str, definitions: Sequence[tuple[int, int, str, Macro]]) -> set[str]:
    """Return the names that are also defined in a way that is not understood, or not safe."""
    taken, found = {start for start, _, _, _ in definitions}, set[str]()
    for match in _ANY_DEFINITION.finditer(text):
        if match.start() not in taken and match["kind"] != "providecommand":
            found.add(match["name"])
            if match["kind"] is None and match["as"]:
                found.add(match["as"])
    return found


def take_macros_of_body(text: str, macros: dict[str, Macro]) -> str:
    """Add the macros that a body defines once, and that the preamble does not; return the text without these.

    What is defined anew on the way means one thing here and another there: it is taken from the macros, and left.
    """
    definitions = list(_list_definitions(text, macros))
    known = {name: {macro} for name, macro in macros.items()}
    for _, _, name, macro in definitions:
        known.setdefault(name, set()).add(macro)
    changing = {name for name, bodies in known.items() if len(bodies) > 1}
    return _take(text, macros, definitions, leaving=changing | _find_spoiled(text, definitions))


def _list_definitions(text: str, macros: Mapping[str, Macro]) -> Iterator[tuple[int, int, str, Macro]]:
    """Yield where each definition that is safe begins and ends, with its line if it fills that, and what it defines."""
    done, groups, known = 0, _match_braces(text), dict(macros)
    for match in _DEFINITION.finditer(text):
        if match.start() < done or (found := _read_definition(text, match, known, groups)) is None:
            continue
        macro, end = found
        known[match["name"]] = macro
        fills_line = text[match.start() - 1 : match.start()] in ("", "\n") and text[end : end + 1] == "\n"
        done = end + fills_line
        yield match.start(), done, match["name"], macro


def _read_definition(
    text: str, match: re.Match[str], macros: Mapping[str, Macro], groups: Sequence[int]
) -> tuple[Macro, int] | None:
    """Return a macro and where its definition ends; None if it is not to be expanded."""
    kind, place, default, number = match["kind"], match.end(), None, 0
    if kind == "renewcommand" and match["name"] not in macros:  # a command of LaTeX, which others know, too
        return None
    if kind == "providecommand" and match["name"] in macros:
        return None
    if kind == "def":
        parameters = _PARAMETERS.match(text, place)
        if parameters is None or parameters[0] != "".join(f"#{i}" for i in range(1, len(parameters[0]) // 2 + 1)):
            return None
        number, place = len(parameters[0]) // 2, parameters.end()
    elif kind != "DeclareMathOperator":
        if counted := _COUNT.match(text, place):
            number, place = int(counted[1]), counted.end()
        if number and (given := _read_optional(text, place)) is not None:
            default, place = given
    group = _find_group(text, place, groups)
    if group is None or group[1] - group[0] > MAX_BODY_CHARACTERS or _UNSAFE.search(text, *group):
        return None
    written = text[slice(*group)]
    body = f"\\operatorname{{{written}}}" if kind == "DeclareMathOperator" else written
    return Macro(number, default, body), group[1] + 1


def expand(text: str, macros: Mapping[str, Macro]) -> str:
    """Return the text with its macros expanded; as it is, if they do not end or make it many times as long."""
    if not macros:
        return text
    left = [_MAX_EXPANSIONS, 10_000_000 + 8 * len(text)]
    try:
        return "".join(_expand(text, macros, 0, left))
    except _Endless:
        return text


def _expand(text: str, macros: Mapping[str, Macro], depth: int, left: list[int]) -> Iterator[str]:
    """Yield the pieces of an expanded text. `left` has the expansions and characters that may still come."""
    done, place, groups, unclosed = 0, 0, _match_braces(text), set[str]()
    while match := _USE.search(text, place):
        if match["keep"]:
            place = close_literal(text, match, unclosed)
            continue
        place = match.end()
        macro = macros.get(match["name"])
        found = _read_arguments(text, place, macro, groups) if macro else None
        if macro is None or found is None:
            continue
        yield text[done : match.start()]
        arguments, done = found
        place = done
        body = _fill(macro.body, arguments)
        left[0], left[1] = left[0] - 1, left[1] - len(body)
        if depth > MAX_DEPTH or min(left) < 0:
            raise _Endless
        expanded = "".join(_expand(body, macros, depth + 1, left))
        yield expanded
        if _ENDS_IN_COMMAND.search(expanded, max(0, len(expanded) - 200)) and text[done : done + 1].isalpha():
            yield " "  # else the letter would belong to the command's name
    yield text[done:]


def _fill(body: str, arguments: list[str]) -> str:
    """Return the body of a macro with its arguments in their places."""
    return re.sub(r"#([1-9])", lambda place: "".join(arguments[int(place[1]) - 1 : int(place[1])]), body)


def _read_arguments(text: str, place: int, macro: Macro, groups: Sequence[int]) -> tuple[list[str], int] | None:
    """Return the arguments of a macro and where they end; None if they are not all there."""
    arguments = []
    if macro.default is not None:
        optional = _read_optional(text, place)
        arguments.append(macro.default if optional is None else optional[0])
        place = place if optional is None else optional[1]
    while len(arguments) < macro.num_arguments:
        if (group := _find_group(text, place, groups)) is not None:
            arguments.append(text[slice(*group)])
            place = group[1] + 1
        elif token := _TOKEN.match(text, place):
            arguments.append(token[1])
            place = token.end()
        else:
            return None
    return arguments, place


def _match_braces(text: str) -> Sequence[int]:
    """Return for the place of each brace that is closed that of the one that closes it; elsewhere 0."""
    found, opened = array("i", bytes(4 * len(text) + 4)), array("i")
    for match in _BRACE.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            found[opened.pop()] = match.start()
    return found


def _find_group(text: str, place: int, groups: Sequence[int]) -> tuple[int, int] | None:
    """Return where what braces hold begins and ends; None if none begin here, or they are not closed."""
    spaces = _SPACES.match(text, place)
    begin = spaces.end() if spaces else place
    return (begin + 1, groups[begin]) if groups[begin] else None


def _read_optional(text: str, place: int) -> tuple[str, int] | None:
    """Return what brackets hold that begin here, and where they end; None if there are none, or too long ones."""
    begin = _OPTIONAL.match(text, place)
    if begin is None:
        return None
    start, depth = begin.end(), 0
    for match in _BRACE.finditer(text, start, start + _MAX_OPTIONAL):
        if match[0] == "]" and depth == 0:
            return text[start : match.start()], match.end()
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth < 0:
            return None
    return None
