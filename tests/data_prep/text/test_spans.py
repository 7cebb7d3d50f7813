r"""Spans of mathematics, code and tables in texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.text.spans import CODE, MATH, MAX_CHARACTERS, MAX_INLINE_CHARACTERS, NO_SPANS, TABLE, Spans, find_spans


def found(text: str) -> list[tuple[str, str]]:
    """Return the kind and the text of each span."""
    return [(span.kind, text[span.start : span.stop]) for span in find_spans(text).spans]


def all_of(kind: str, *texts: str) -> list[tuple[str, str]]:
    return [(kind, text) for text in texts]


@pytest.mark.parametrize(
    ("text", "maths"),
    [
        ("let $x^2$ be", ["$x^2$"]),
        ("($x$, $y$); $z$-axis", ["$x$", "$y$", "$z$"]),
        ("a$b$c", ["$b$"]),
        ("$x$\n$y$", ["$x$", "$y$"]),
        ("$x$$y$ follow each other", ["$x$", "$y$"]),
        ("$a\nb$", ["$a\nb$"]),
        ("so $$x = 1$$ holds", ["$$x = 1$$"]),
        ("so\n$$\nx = 1\n$$\nholds", ["$$\nx = 1\n$$"]),
        ("$$a$$ $$b$$", ["$$a$$", "$$b$$"]),
        ("$$a$$$$b$$", ["$$a$$", "$$b$$"]),
        ("$$f(x) = 1 \\text{ if $x$ is even}$$", ["$$f(x) = 1 \\text{ if $x$ is even}$$"]),
        (r"\(a\) and \[b\]", [r"\(a\)", r"\[b\]"]),
        (r"\[ a \(b\) c \]", [r"\[ a \(b\) c \]"]),
        ("\\[\na\n\\]", ["\\[\na\n\\]"]),
        (r"\[ \text{cost } \$5 \]", [r"\[ \text{cost } \$5 \]"]),
        (r"\begin{align}a &= b\end{align} c", [r"\begin{align}a &= b\end{align}"]),
        (r"\begin{align*}a\end{align*}", [r"\begin{align*}a\end{align*}"]),
        (r"x \begin{equation*}$a$\end{equation*}", [r"\begin{equation*}$a$\end{equation*}"]),
        (
            r"\begin{equation}\begin{split}a\end{split}\end{equation}.",
            [r"\begin{equation}\begin{split}a\end{split}\end{equation}"],
        ),
        (
            r"\begin{cases}a\begin{cases}b\end{cases}c\end{cases}.",
            [r"\begin{cases}a\begin{cases}b\end{cases}c\end{cases}"],
        ),
        (r"\begin{theorem}Let $x$ be\end{theorem}", ["$x$"]),
        ("<math>x</math> and <math display='block'>y</math>", ["<math>x</math>", "<math display='block'>y</math>"]),
        (r"costs \$5 and $x$", ["$x$"]),
        (r"$\$5 + x$", [r"$\$5 + x$"]),
        (r"$a\\$ b", [r"$a\\$"]),
        ("between $a and $b$", ["$b$"]),
    ],
)
def test_mathematics_is_found(text: str, maths: list[str]) -> None:
    assert found(text) == all_of(MATH, *maths)
    assert find_spans(text).num_unbalanced == 0


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.",
        "It costs $20,000 or $30,000.",
        "US$5 and US$6",
        "($5) or ($6), **$7** and **$8**",
        "$5-$6 and $7/$8",
        "price $5\nprice $6",
        "$HOME and $PATH",
        "$ x$ and $ y $",
        r"\$5\$ and \$x\$",
        "$x$5",
        "$ alone",
        "$\n$",
        r"\\(x\\) and \\[2pt]",
        r"\begin{document}x\end{document}",
        "<mathx>y</mathx>",
        "math, a|b, ~~ and >> no >>> more",
    ],
)
def test_prices_and_the_like_are_no_mathematics(text: str) -> None:
    assert find_spans(text) == NO_SPANS


@pytest.mark.parametrize(
    "text",
    [
        "$a\n\nb$",
        "$a\n \t\nb$",
        "\\(a\n\nb\\)",
        "`a\n\nb`",
        "``a\n\nb``",
        "$" + "a" * (MAX_INLINE_CHARACTERS + 1) + "$",
    ],
)
def test_a_blank_line_and_the_greatest_length_end_what_is_inline(text: str) -> None:
    assert find_spans(text).spans == ()
    assert found(f"{text}\n\n$x$") == [(MATH, "$x$")]


@pytest.mark.parametrize(("opening", "closing"), [("$$", "$$"), (r"\[", r"\]"), (r"\begin{gather}", r"\end{gather}")])
def test_a_blank_line_and_the_greatest_length_end_what_is_displayed(opening: str, closing: str) -> None:
    text = f"{opening}a\nb{closing}"
    assert found(text) == [(MATH, text)]
    assert find_spans(f"{opening}a\n\nb{closing}").spans == ()
    assert found(f"{opening}a\n\n$x$ and {text}") == [(MATH, "$x$"), (MATH, text)]
    long = "a " * (MAX_CHARACTERS // 2 + 1)
    assert find_spans(f"{opening}{long}{closing}").spans == ()


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("a\n```\ncode $x$\n```\nb", ["```\ncode $x$\n```"]),
        ("a\n```python\ncode\n```\nb", ["```python\ncode\n```"]),
        ("~~~ {.py #id}\ncode\n~~~\nb", ["~~~ {.py #id}\ncode\n~~~"]),
        ("```\na\n``````\nb", ["```\na\n``````"]),
        ("````\n```\na\n```\n````\nb", ["````\n```\na\n```\n````"]),
        ("```\na\n~~~\nb\n```", ["```\na\n~~~\nb\n```"]),
        ("```\na\n``` text\nb\n```", ["```\na\n``` text\nb\n```"]),
        ("- a\n  ```\n  b\n  ```\n- c", ["  ```\n  b\n  ```"]),
        ("```\na\n```\nb\n```\nc\n```", ["```\na\n```", "```\nc\n```"]),
        ("a\n```\nnever closed $x$\n\nb", ["```\nnever closed $x$\n\nb"]),
        ("a\n\n````\nb\n```\nc", ["````\nb\n```\nc"]),
        ("use `x` and `y z`.", ["`x`", "`y z`"]),
        ("use ``a`b`` now", ["``a`b``"]),
        ("`a``b`", ["`a``b`"]),
        ("```x``` in a line", ["```x```"]),
        ("`$x$` and `a\nb`", ["`$x$`", "`a\nb`"]),
        (">>> 1 + 1\n2\n\nb", [">>> 1 + 1\n2\n"]),
        ("a\n    >>> f()\n    >>> g()\n    3\n\nb", ["    >>> f()\n    >>> g()\n    3\n"]),
        ("a\n>>> f('$x$')", [">>> f('$x$')"]),
        (r"\begin{verbatim}$x$\end{verbatim} b", [r"\begin{verbatim}$x$\end{verbatim}"]),
        (r"\begin{lstlisting}a\end{lstlisting}", [r"\begin{lstlisting}a\end{lstlisting}"]),
    ],
)
def test_code_is_found(text: str, codes: list[str]) -> None:
    assert found(text) == all_of(CODE, *codes)
    assert find_spans(text).num_unbalanced == 0


def test_a_backslash_at_the_end_of_code_escapes_nothing() -> None:
    """CommonMark, section 6.1: backslashes stand for themselves in code."""
    assert found("`C:\\` and $x$") == [(CODE, "`C:\\`"), (MATH, "$x$")]


@pytest.mark.parametrize("text", ["one ` alone", "``a`", "a >>> b", ">>>a", "~~gone~~ words", "a ```", r"\`a\`"])
def test_marks_alone_are_no_code(text: str) -> None:
    assert find_spans(text) == NO_SPANS


@pytest.mark.parametrize(
    "text", ["the ``first'' word, and the ``second'' word", "the `first' word, and the `second' word"]
)
def test_quotes_of_latex_are_no_code(text: str) -> None:
    assert find_spans(text) == NO_SPANS


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("a\n| a | b |\n|---|---|\n| 1 | 2 |\nb", ["| a | b |\n|---|---|\n| 1 | 2 |"]),
        ("|a|\n|b|", ["|a|\n|b|"]),
        ("| $x$ | `y` |\n| z | w |", ["| $x$ | `y` |\n| z | w |"]),
        ("|a|\n|b|\n\n|c|\n|d|", ["|a|\n|b|", "|c|\n|d|"]),
        ("| a |\n\n| b |", []),
        ("| a |\nwords", []),
        ("a | b", []),
        ("|x| is the absolute value of x", []),
        (r"\begin{tabular}{ll}a & b\end{tabular}.", [r"\begin{tabular}{ll}a & b\end{tabular}"]),
        (r"\begin{table*}a\end{table*}.", [r"\begin{table*}a\end{table*}"]),
    ],
)
def test_tables_are_found(text: str, tables: list[str]) -> None:
    assert found(text) == all_of(TABLE, *tables)


def test_kinds_follow_each_other() -> None:
    text = "A $x$, `y`:\n\n```\n$z$\n```\n\n| a |\n| b |\n\nand \\[w\\], then $u$."
    assert [kind for kind, _ in found(text)] == [MATH, CODE, CODE, TABLE, MATH, MATH]
    assert find_spans(text).prose(text) == "A  ,  :\n\n \n\n \n\nand  , then  ."


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("$$x", 1),
        ("$$x$$ y$$", 1),
        (r"\[x", 1),
        (r"x\]", 1),
        (r"\(x", 1),
        (r"x\)", 1),
        (r"\[a \[b\]", 1),
        (r"\(a \(b\)", 1),
        (r"\begin{equation}x", 1),
        (r"x\end{equation}", 1),
        (r"\begin{align}\begin{align}x\end{align}", 1),
        ("\\(a\n\nb\\)", 2),
        (r"x\] y\) \[z", 3),
        ("$x", 0),
        ("`x", 0),
        (r"\begin{tabular}x", 0),
        (r"\begin{verbatim}x", 0),
        ("```\n\\[x\n```", 0),
        (r"`\[`", 0),
        (r"\begin{verbatim}\[\end{verbatim}", 0),
        (r"\\[2pt] \\(x\\)", 0),
    ],
)
def test_delimiters_without_their_other_half_are_counted(text: str, number: int) -> None:
    assert find_spans(text).num_unbalanced == number


def check(text: str, spans: Spans) -> None:
    done = 0
    for span in spans.spans:
        assert done <= span.start < span.stop <= len(text)
        assert span.kind in (MATH, CODE, TABLE)
        done = span.stop
    bounds = [0, *(place for span in spans.spans for place in (span.start, span.stop)), len(text)]
    outside = [text[start:stop] for start, stop in zip(bounds[::2], bounds[1::2], strict=True)]
    assert spans.prose(text) == " ".join(outside)


@pytest.mark.parametrize(
    "unit",
    [
        "\\[",
        "\\(",
        "$a ",
        "$a$",
        "` a",
        "``` a",
        "|a|\n",
        ">>> \n",
        "\\begin{align}",
        "\\end{align}",
        "<math>",
        "```\n",
    ],
)
def test_pathological_texts_are_read(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    check(text, find_spans(text))


def test_an_odd_number_of_double_dollars_has_one_left() -> None:
    text = "$$a " * 50_001
    spans = find_spans(text)
    check(text, spans)
    assert len(spans.spans) == 25_000
    assert spans.num_unbalanced == 1


DELIMITERS = (
    *(
        "$",
        "$$",
        "\\$",
        "\\",
        "\\\\",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
        "`",
        "``",
        "```",
        "```\n",
        "~~~\n",
        ">>> ",
        "|",
        "|a|\n",
    ),
    *("\\begin{align}", "\\end{align}", "\\begin{align*}", "\\end{align*}", "\\begin{tabular}", "\\end{tabular}"),
    *("\\begin{verbatim}", "\\end{verbatim}", "\\begin{cases}", "\\end{cases}", "<math>", "</math>", "<math a='b'>"),
    *("a", "5", " ", "\n", "\n\n", "\n \n", "é", "文", "\ud800", "\r\n", "\t"),
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(DELIMITERS), max_size=60).map("".join))
def test_spans_are_ordered_and_apart_and_prose_is_the_rest(text: str) -> None:
    check(text, find_spans(text))


@pytest.mark.parametrize(
    "text",
    [
        "Introduction\n~~~~~~~~~~~~\n\nWrite to ana@example.com.\n",
        "one\n\n~~~ cut here ~~~\n\ntwo",
        "It costs $5 now. Write to us: it's 3$ each",
        "It costs $5, ask ana@example.com, or 3$ each",
        "std::\nnext line",
        "a note::",
    ],
)
def test_headings_prices_and_colons_are_prose(text: str) -> None:
    assert find_spans(text).spans == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Use it::\n\n    x = a[0]\n    y\n\nafter", [(CODE, "\n\n    x = a[0]\n    y")]),
        ("Use it.\n\n::\n\n   ping 8.8.8.8\n\nafter", [(CODE, "\n\n   ping 8.8.8.8")]),
        (".. math:: a\n\n   b + c\n\nafter", [(MATH, ".. math:: a\n\n   b + c")]),
        ("  .. code-block:: python\n     :linenos:\n\n     f(x)\n  end", None),
        (".. table::\n\n   == ==\n   a  b\n   == ==\n\nafter", [(TABLE, ".. table::\n\n   == ==\n   a  b\n   == ==")]),
        ("Use `it`::\n\n  `x` and $y$\n\nafter $z$", None),
    ],
)
def test_what_restructuredtext_indents_is_no_prose(text: str, expected: list[tuple[str, str]] | None) -> None:
    if expected is None:
        prose = find_spans(text).prose(text)
        assert "f(x)" not in prose and "$" not in prose
    else:
        assert found(text) == expected


def test_a_fence_with_what_looks_like_a_directive_in_it_is_one_span() -> None:
    fence = "```rst\nUse it::\n\n    x = 1\n\nmore of the fence\n```"
    assert found(f"before\n\n{fence}\n\nafter") == [(CODE, fence)]
    block = ".. code-block:: python\n\n   >>> f(x)\n   3\n\n   more = 1"
    assert found(f"{block}\n\nafter") == [(CODE, block)]
