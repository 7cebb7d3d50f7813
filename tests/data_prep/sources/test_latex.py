"""LaTeX: files put together, comments and preamble gone, macros expanded where that is safe, math as it is written."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.data.sources import LatexSource
from data_prep.sources.document import Document, Unreadable
from data_prep.sources.formats.latex_text import expand, remove_comments, take_macros, to_text
from data_prep.sources.table import READERS
from tests.data_prep.corpora import read_records


def text_of(body: str, preamble: str = "", **files: str) -> str:
    whole = f"\\documentclass{{article}}\n{preamble}\n\\begin{{document}}\n{body}\n\\end{{document}}\nafter"
    return to_text(whole, {f"{name}.tex": text for name, text in files.items()}.get).strip()


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("a % comment\nb", "a b"),
        ("a% comment\n  b", "ab"),
        ("one\n% a line\n  % another\ntwo", "one\ntwo"),
        (r"50\% of it", r"50\% of it"),
        (r"\\% after a break", r"\\"),
        (r"\verb|100%| x % y", r"\verb|100%| x "),
        (r"\url{http://a%20b} % y", r"\url{http://a%20b} "),
        ("\\begin{verbatim}\n% kept\n\\end{verbatim}", "\\begin{verbatim}\n% kept\n\\end{verbatim}"),
        ("a\\begin{comment}\nhidden\n\\end{comment}b", "ab"),
    ],
)
def test_comments_are_taken_out_as_tex_does(written: str, left: str) -> None:
    assert remove_comments(written) == left


def test_the_preamble_and_what_is_after_the_end_are_gone() -> None:
    assert text_of("Text.", r"\usepackage{x}\title{T}") == "Text."


@pytest.mark.parametrize(
    ("definition", "used", "expected"),
    [
        (r"\newcommand{\R}{\mathbb{R}}", r"$x \in \R$", r"$x \in \mathbb{R}$"),
        (r"\newcommand\R{\mathbb R}", r"$\R^2$", r"$\mathbb R^2$"),
        (r"\def\pair#1#2{(#1, #2)}", r"$\pair{a}{b}$ $\pair ab$", r"$(a, b)$ $(a, b)$"),
        (r"\newcommand{\norm}[2][p]{\|#2\|_{#1}}", r"\norm{x} \norm[2]{y}", r"\|x\|_{p} \|y\|_{2}"),
        (r"\DeclareMathOperator{\tr}{tr}", r"$\tr A$", r"$\operatorname{tr} A$"),
        (r"\newcommand{\la}{\langle}", r"$\la x$ and $\la{}x$", r"$\langle x$ and $\langle{}x$"),
        (r"\def\la{\langle}\def\ra{\rangle}", r"$\la\ra$", r"$\langle\rangle$"),
        (r"\newcommand{\a}{\alpha}", r"$\a1\ab$", r"$\alpha1\ab$"),
        (r"\newcommand{\x}{x_1}\newcommand{\y}{\x + \x}", r"$\y$", r"$x_1 + x_1$"),
        (r"\newcommand{\v}[1]{\mathbf{#1}}", r"$\v{\v{a}}$", r"$\mathbf{\mathbf{a}}$"),
        (r"\newcommand{\e}{a}\renewcommand{\e}{b}", r"\e", "b"),
        (r"\providecommand{\p}{q}", r"\p", "q"),
    ],
)
def test_macros_are_expanded_with_their_arguments(definition: str, used: str, expected: str) -> None:
    assert text_of(used, definition) == expected
    assert text_of(f"{definition}\n{used}") == expected, "also where they are defined in the text"


@pytest.mark.parametrize(
    "definition",
    [
        r"\newcommand{\x}[1]{\ifx#1a b\else c\fi}",
        r"\def\x#1.{(#1)}",
        r"\newcommand{\x}{\def\y{z}}",
        r"\renewcommand{\section}[1]{#1}",
        r"\newcommand{\x}{\csname y\endcsname}",
        r"\newcommand{\x}{\my@name}",
    ],
)
def test_what_computes_or_redefines_latex_is_left_alone(definition: str) -> None:
    body = r"\section{One} \x{a}. rest"
    assert text_of(body, definition) == body


def test_macros_that_never_end_leave_the_text_as_it_is() -> None:
    assert text_of(r"\x", r"\newcommand{\x}{a \x}") == r"\x"
    pairs = zip("abcdefghijklmnopqrst", "bcdefghijklmnopqrstu", strict=True)
    doubling = "".join(rf"\newcommand{{\{one}}}{{\{two}\{two}}}" for one, two in pairs)
    assert text_of(r"\a", doubling + r"\newcommand{\u}{xx}") == r"\a"


def test_math_and_what_is_verbatim_stay_as_they_are_written() -> None:
    body = "\\begin{align}\n  a &= b \\\\\n  c &= \\frac{1}{2} % half\n\\end{align}\n\\verb|\\R| \\[ x_{i}^{2} \\]"
    assert text_of(body, r"\newcommand{\R}{\mathbb{R}}") == body.replace("% half\n", "")


def test_files_are_put_where_they_are_included() -> None:
    text = text_of(
        r"\input{one} \include{two} \input three \input{gone}",
        one="ONE % c\n\\input{deep}",
        deep="DEEP",
        two="\\documentclass{subfiles}\\begin{document}TWO\\end{document}",
        three="THREE",
    )
    assert " ".join(text.split()) == r"ONE DEEP TWO THREE \input{gone}"
    assert text_of(r"\input{a}", a=r"A \input{a}").startswith("A A A"), "a circle ends"
    assert (
        text_of(r"\includegraphics{one} \inputencoding{one}", one="ONE") == r"\includegraphics{one} \inputencoding{one}"
    )


@given(st.text(alphabet="\\{}[]%#$ab1\n @", max_size=80))
@settings(max_examples=400, deadline=None)
def test_any_text_is_read(text: str) -> None:
    macros: dict[str, Any] = {}
    expand(take_macros(remove_comments(text), macros), macros)
    to_text(text, lambda name: text[:20])


# The source


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(*paths: str) -> list[Any]:
    source = LatexSource(name="papers", kind="latex", paths=paths, language="eng_Latn")
    return read_records(source)


MAIN = "\\documentclass{article}\\usepackage{my}\n\\begin{document}\\input{sec/one} \\R\\end{document}\n"


def write_archive(name: str, files: dict[str, str]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, text in files.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    Path(name).write_bytes(buffer.getvalue())


def test_a_tree_and_an_archive_give_one_text() -> None:
    files = {
        "paper/main.tex": MAIN,
        "paper/sec/one.tex": "One.",
        "paper/my.sty": r"\newcommand{\R}{\mathbb{R}}",
        "paper/fig.pdf": "no text",
        "paper/other.tex": "\\documentclass{x}\\begin{document}supplement\\end{document}",
    }
    write_archive("a.tar.gz", files)
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    (archive,) = read("a.tar.gz")
    (tree,) = read("paper/main.tex")
    assert archive == Document("papers/a.tar.gz", "One. \\mathbb{R}\n", "en", "papers")
    assert tree.text == archive.text


def test_a_single_file_may_be_compressed_and_in_latin_1() -> None:
    Path("2401.00001.gz").write_bytes(gzip.compress(MAIN.encode()))
    text = "\\documentclass{x}\\usepackage[latin1]{inputenc}\\begin{document}é\\end{document}"
    Path("b.tex").write_bytes(text.encode("latin-1"))
    Path("c.tex").write_bytes(text.replace("latin1", "utf8").encode("latin-1"))
    found = {(r.id if isinstance(r, Document) else r.where): r for r in read("*.gz", "*.tex")}
    assert found["papers/2401.00001.gz"].text == "\\input{sec/one} \\R\n"
    assert found["papers/b.tex"].text == "é\n"
    assert found["c.tex"] == Unreadable("c.tex", "invalid_utf8")


def test_an_archive_without_a_main_file_is_noted() -> None:
    write_archive("a.tar.gz", {"a.tex": "one", "b.tex": "two"})
    assert [record.reason for record in read("a.tar.gz")] == ["no_main_file"]
    write_archive("b.tar.gz", {"only.tex": "plain tex"})
    assert read("b.tar.gz")[0].text == "plain tex\n"


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link", "x" * 300])
def test_nothing_outside_the_directory_of_the_main_file_is_included(tmp_path: Path, name: str) -> None:
    Path("in").mkdir()
    Path("secret.tex").write_text("SECRET")
    Path("in/link.tex").symlink_to(tmp_path / "secret.tex")
    Path("in/main.tex").write_text(f"\\documentclass{{x}}\\begin{{document}}\\input{{{name}}}\\end{{document}}")
    assert read("in/main.tex")[0].text == f"\\input{{{name}}}\n"


def test_the_identity_covers_what_may_be_included() -> None:
    Path("main.tex").write_text(MAIN)
    Path("sec").mkdir()
    Path("sec/one.tex").write_text("One.")
    source = LatexSource(name="papers", kind="latex", paths=("main.tex",))
    assert set(READERS["latex"].identity(source, lambda path: "d")) == {"main.tex", "sec/one.tex"}
