"""LaTeX: files put together, comments and preamble gone, macros expanded where that is safe, math as it is written."""

import errno
import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.base import InfrastructureError
from configs.data.sources import LatexSource
from data_prep.sources.document import Document, Dropped, Unreadable
from data_prep.sources.formats import latex
from data_prep.sources.formats.latex_macros import expand, take_macros
from data_prep.sources.formats.latex_text import PaperError, remove_comments, to_text
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
        ("End.%\n\nNew paragraph", "End.\n\nNew paragraph"),
        ("a \\iffalse gone \\ifx b\\fi gone \\fi c", "a c"),
        ("a \\iffalse gone \\else kept \\fi c", "a kept c"),
        ("a \\iffalse never ends", "a \\iffalse never ends"),
        ("a \\iffalse $x \\iff y$ \\ifthenelse{b}\n%\\fi\nd \\fi c", "a c"),
        ("\\let\\ifdraft\\iffalse a \\ifdraft b\\fi c", "\\let\\ifdraft\\iffalse a \\ifdraft b\\fi c"),
        ("\\nolinkurl{a%20b} \\url|a%20b| % y", "\\nolinkurl{a%20b} \\url|a%20b| "),
        ('\\lstinline!printf("%d")! x % y\nz', '\\lstinline!printf("%d")! x z'),
        ("\\mintinline{c}|a%b| \\lstinline[language=C]{a%b} % y", "\\mintinline{c}|a%b| \\lstinline[language=C]{a%b} "),
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
    if r"\renewcommand" not in definition:
        assert text_of(f"{definition}\n{used}") == expected, "also where they are defined in the text"


@pytest.mark.parametrize(
    "body",
    [
        r"\def\x{one}\x and \def\x{two}\x",
        r"\newcommand{\n}{Alice}Hello \n. \renewcommand{\n}{Bob}Hello \n.",
        r"{\def\y{inner}\y} \def\y{outer}\y",
    ],
)
def test_what_is_defined_anew_in_the_text_is_left_as_it_is(body: str) -> None:
    assert text_of(body) == body


@pytest.mark.parametrize(
    "more",
    [r"\gdef\x{B}", r"\renewcommand{\x}{\ifmmode b\else c\fi}", r"\let\x\relax", r"\RenewDocumentCommand{\x}{}{B}"],
)
def test_a_macro_that_is_also_defined_otherwise_is_left_alone(more: str) -> None:
    assert text_of(r"Value \x.", r"\newcommand{\x}{A}" + more) == r"Value \x."
    body = rf"\newcommand{{\x}}{{A}}{more} Value \x."
    assert text_of(body) == body


def test_names_for_the_beginning_and_the_end_of_the_document_are_these() -> None:
    names = "\\def\\bd{\\begin{document}}\n\\newcommand{\\ed}{\\end{document}}\n"
    whole = "\\documentclass{a}\n" + names + "\\bd\nThe whole paper, \\bdx.\n\\ed\nafter"
    assert to_text(whole, lambda name: None) == "The whole paper, \\bdx.\n"


def test_the_end_of_the_document_is_not_what_is_verbatim() -> None:
    body = "\\verb|\\end{document}| and\n\\begin{verbatim}\n\\end{document}\n\\end{verbatim}\nmore"
    assert text_of(body) == body


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
    assert text_of(r"\input{a}", a=r"A \input{a}") == r"A \input{a}", "a circle ends"
    assert (
        text_of(r"\includegraphics{one} \inputencoding{one}", one="ONE") == r"\includegraphics{one} \inputencoding{one}"
    )


def test_files_are_imported_from_directories() -> None:
    files = {"chap/one.tex": r"ONE \input{deep}", "chap/deep.tex": "DEEP", "chap/sub/two.tex": r"TWO \input{leaf}"}
    files |= {"chap/sub/leaf.tex": "LEAF", "leaf.tex": "ROOT", "top.tex": r"TOP \subimport{sub/}{two} \input{leaf}"}
    files["chap/top.tex"] = files["top.tex"]
    for body, expected in {
        r"\import{chap/}{one}": "ONE DEEP",
        r"\import*{chap}{one.tex}": "ONE DEEP",
        r"\import{chap/}{top} \input{leaf}": "TOP TWO LEAF ROOT ROOT",
        r"\includefrom{chap/sub}{two}": "TWO LEAF",
        r"\import{gone/}{one}": r"\import{gone/}{one}",
    }.items():
        whole = f"\\documentclass{{article}}\\begin{{document}}{body}\\end{{document}}"
        assert to_text(whole, files.get).strip() == expected


LONG = 300_000


@pytest.mark.parametrize(
    "body",
    [
        r"\begin{verbatim}" * (LONG // 16),
        r"\begin{comment}" * (LONG // 15),
        r"\iffalse " * (LONG // 9),
        r"\def\x" + " " * LONG,
        r"\newcommand{\x}{ " * (LONG // 17),
        r"\newcommand{\x}{ " * (LONG // 17) + "}" * (LONG // 17),
        r"\newcommand" + " " * LONG,
        r"\input{ a" + " " * LONG,
        r"\newcommand{\x}[1]{a#1}" + r"\x{" * (LONG // 3),
        r"\newcommand{\x}[2][a]{a#1}" + r"\x[" * (LONG // 30),
        "".join(rf"\newcommand{{\a{'b' * (i % 99)}{'c' * (i // 99)}}}{{x}}" for i in range(3000)) + r"\a " * LONG,
    ],
    ids=lambda body: body[:20].strip(),
)
def test_what_is_never_closed_takes_no_time_to_speak_of(body: str) -> None:
    """Each of these took minutes, or hours, when every opening was looked after to the end of the text."""
    assert to_text(f"\\documentclass{{a}}\\begin{{document}}{body}", lambda name: None)


@pytest.mark.parametrize("kind", ["itself twice", "each the next twice"])
def test_files_that_include_each_other_without_end_are_unreadable(kind: str) -> None:
    """Thirty files that each include the next twice are 2^30 inclusions."""
    files = {f"f{i}.tex": rf"x\input{{f{i + 1}}}\input{{f{i + 1}}}" for i in range(30)}
    if kind == "itself twice":
        files = {"f0.tex": r"x\input{f0}\input{f0}"}
        assert text_of(r"\input{f0}", f0=files["f0.tex"]) == files["f0.tex"]
        return
    with pytest.raises(PaperError) as caught:
        to_text(r"\documentclass{a}\begin{document}\input{f0}", files.get)
    assert caught.value.reason == "too_large"


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


def write_archive(name: str, files: Mapping[str, str | bytes]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, text in files.items():
            data = text.encode() if isinstance(text, str) else text
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    Path(name).write_bytes(buffer.getvalue())


def test_a_tree_and_an_archive_give_one_text() -> None:
    files = {
        "paper/main.tex": MAIN,
        "paper/sec/one.tex": "One.",
        "paper/my.sty": r"\newcommand{\R}{\mathbb{R}}",
        "paper/fig.pdf": "no text",
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
    assert found["c.tex"] == Unreadable("c.tex", "invalid_utf8", "its main file, and it declares no other encoding")


def test_an_archive_without_a_main_file_is_noted() -> None:
    write_archive("a.tar.gz", {"a.tex": "one", "b.tex": "two"})
    assert [record.reason for record in read("a.tar.gz")] == ["no_main_file"]
    write_archive("b.tar.gz", {"only.tex": "plain tex"})
    assert read("b.tar.gz")[0].text == "plain tex\n"


def main_of(body: str, option: str = "", name: str = "article") -> str:
    encoding = f"\\usepackage[{option}]{{inputenc}}" if option else ""
    return f"\\documentclass{{{name}}}{encoding}\n\\begin{{document}}{body}\\end{{document}}\n"


def test_each_main_file_of_an_archive_is_a_document_but_those_that_others_include() -> None:
    files = {
        "paper.tex": main_of(r"Paper. \input{sec/one}"),
        "sec/one.tex": main_of("One.", name="subfiles"),
        "supplement.tex": main_of("Supplement."),
        "figures/plot.tex": main_of("tikz", name="standalone"),
        "unused.tex": "no main file",
    }
    write_archive("a.tar.gz", files)
    assert read("a.tar.gz") == [
        Document("papers/a.tar.gz", "Paper. One.\n", "en", "papers"),
        Document("papers/a.tar.gz/supplement.tex", "Supplement.\n", "en", "papers"),
        Dropped("picture", "en"),
    ]
    write_archive("b.tar.gz", {"x.tex": "Plain \\TeX.\n\\bye", "macros.tex": "\\def\\a{b}"})
    assert [record.id for record in read("b.tar.gz")] == ["papers/b.tar.gz"]


def test_a_paper_whose_class_is_in_an_included_preamble_is_read() -> None:
    files = {"preamble.tex": "\\documentclass{amsart}\n\\newcommand{\\R}{R}", "macros.tex": r"\def\x{y}"}
    files["categories.tex"] = "\\input{preamble}\n\\begin{document}\nCats are nice, \\R.\n\\end{document}"
    write_archive("a.tar.gz", files)
    for name, text in files.items():
        Path(name).write_text(text)
    assert [(record.id, record.text) for record in read("a.tar.gz")] == [("papers/a.tar.gz", "Cats are nice, R.\n")]
    found = read("categories.tex", "preamble.tex")
    assert found == [
        Document("papers/categories.tex", "Cats are nice, R.\n", "en", "papers"),
        Dropped("included", "en"),
    ]


def test_files_that_include_each_other_are_one_document() -> None:
    files = {"a.tex": main_of(r"A \input{b}"), "b.tex": main_of(r"B \input{a}")}
    write_archive("c.tar.gz", files)
    for name, text in files.items():
        Path(name).write_text(text)
    assert len([record for record in read("c.tar.gz") if isinstance(record, Document)]) == 1
    assert [type(record) for record in read("*.tex")] == [Document, Dropped]


def test_of_a_circle_beside_another_main_file_one_is_a_document() -> None:
    files = {"main.tex": main_of("Main."), "aa.tex": main_of(r"A \input{bb}"), "bb.tex": main_of(r"B \input{aa}")}
    write_archive("c.tar.gz", files)
    assert [record.id for record in read("c.tar.gz")] == ["papers/c.tar.gz", "papers/c.tar.gz/aa.tex"]


def test_an_archive_of_archives_has_a_paper_in_each() -> None:
    write_archive("one.tar.gz", {"m.tex": main_of(r"One \input{x}"), "x.tex": "x"})
    files: dict[str, str | bytes] = {"2401/1.gz": Path("one.tar.gz").read_bytes()}
    files |= {"2401/2.gz": gzip.compress(main_of("Two").encode()), "2401/3.pdf": b"%PDF-"}
    Path("one.tar.gz").unlink()
    write_archive("bulk.tar", files)
    assert [(record.id, record.text) for record in read("bulk.tar")] == [
        ("papers/bulk.tar/2401/1.gz", "One x\n"),
        ("papers/bulk.tar/2401/2.gz", "Two\n"),
    ]


def test_compressed_pictures_of_an_archive_are_no_papers() -> None:
    pictures = {"fig1.eps.gz": gzip.compress(b"%!PS-Adobe"), "fig2.ps.gz": gzip.compress(b"\xc4\x00\xfd" * 9)}
    write_archive("a.tar.gz", {"main.tex": main_of("Paper."), **pictures})
    assert [(record.id, record.text) for record in read("a.tar.gz")] == [("papers/a.tar.gz", "Paper.\n")]


def test_a_main_file_that_includes_the_beginning_of_the_document_is_the_paper() -> None:
    files = {"header.tex": "\\documentclass{a}\\begin{document}", "main.tex": "\\input{header}\nText.\n\\end{document}"}
    write_archive("a.tar.gz", files)
    assert [record.text for record in read("a.tar.gz")] == ["Text.\n"]


def test_what_a_file_that_changed_includes_is_looked_up_again() -> None:
    Path("a.tex").write_text(main_of(r"A \input{b}"))
    Path("b.tex").write_text(main_of("B"))
    assert [type(record) for record in read("*.tex")] == [Document, Dropped]
    Path("a.tex").write_text(main_of("A alone"))
    assert [record.text for record in read("*.tex")] == ["A alone\n", "B\n"]


def test_a_main_file_is_not_put_into_itself() -> None:
    Path("a.tex").write_text(main_of(r"Body \input{a} end"))
    assert read("a.tex")[0].text == "Body \\input{a} end\n"


def test_links_in_an_archive_are_what_they_lead_to() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in {"m.tex": main_of(r"\input{intro} \input{again}"), "parts/one.tex": "Intro"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
        for name, kind, target in (
            ("intro.tex", tarfile.SYMTYPE, "parts/one.tex"),
            ("again.tex", tarfile.LNKTYPE, "m.tex"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    Path("a.tar").write_bytes(buffer.getvalue())
    (record,) = read("a.tar")
    assert record.text.startswith("Intro ")


def test_an_encoding_that_is_commented_out_is_none() -> None:
    text = main_of("Größe", "latin1").replace("\n\\begin", "\n% \\usepackage[koi8-r]{inputenc}\n\\begin")
    Path("m.tex").write_bytes(text.encode("latin-1"))
    assert read("m.tex")[0].text == "Größe\n"


def test_a_link_that_leads_nowhere_is_no_part_of_the_identity() -> None:
    Path("m.tex").write_text(main_of("x"))
    Path(".#m.tex").symlink_to("ann@host.1234")
    Path(".git").mkdir()
    Path(".git/x.tex").write_text("x")
    source = LatexSource(name="papers", kind="latex", paths=("m.tex",))
    assert set(READERS["latex"].identity(source, lambda path: "d")) == {"m.tex"}


def test_zero_bytes_are_no_text() -> None:
    Path("m.tex").write_bytes(main_of("x\0").encode())
    assert read("m.tex")[0].reason == "not_text"


def test_what_another_file_of_the_source_includes_is_read_once() -> None:
    files = {
        "main.tex": main_of(r"Main. \input{sec/one} \input{sec/sub}"),
        "sec/one.tex": "One.",
        "sec/own.tex": "Own.",
    }
    files |= {"sec/sub.tex": main_of("Sub.", name="subfiles"), "more/part.tex": "Part."}
    for name, text in files.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    found = [r if isinstance(r, Dropped) else (r.id, r.text) for r in read("**/*.tex")]
    assert found == [
        ("papers/main.tex", "Main. One. Sub.\n"),
        ("papers/more/part.tex", "Part.\n"),
        Dropped("included", "en"),
        ("papers/sec/own.tex", "Own.\n"),
        Dropped("included", "en"),
    ]
    assert [record.text for record in read("sec/*.tex")] == ["One.\n", "Own.\n", "Sub.\n"], "the main file is not read"


@pytest.mark.parametrize(
    ("option", "codec", "word"),
    [
        ("latin1", "latin-1", "naïve"),
        ("koi8-r", "koi8-r", "слово"),
        ("utf8,cp1251", "cp1251", "слово"),
        ("x", "utf-8", "ĝi"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_included_files_are_in_the_encoding_of_the_main_file(option: str, codec: str, word: str, packed: bool) -> None:
    files = {"m.tex": main_of(word + r" \input{one}", option).encode(codec), "one.tex": word.encode(codec)}
    write_archive("a.tar.gz", files)
    for name, data in files.items():
        Path(name).write_bytes(data)
    assert [record.text for record in read("a.tar.gz" if packed else "m.tex")] == [f"{word} {word}\n"]


@pytest.mark.parametrize("packed", [True, False])
def test_a_paper_with_a_file_that_does_not_decode_is_unreadable(packed: bool) -> None:
    files = {"m.tex": main_of(r"Paper. \input{one}").encode(), "one.tex": "é".encode("latin-1")}
    write_archive("a.tar.gz", files)
    for name, data in files.items():
        Path(name).write_bytes(data)
    (record,) = read("a.tar.gz" if packed else "m.tex")
    assert record.reason == "invalid_utf8" and "one.tex" in record.detail


def test_a_file_that_cannot_be_read_now_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("m.tex").write_text(main_of(r"Paper. \input{one}"))
    Path("one.tex").write_text("One.")
    is_file = Path.is_file

    def fail(path: Path) -> bool:
        if path.name == "one.tex":
            raise OSError(errno.ESTALE, "Stale file handle")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", fail)
    with pytest.raises(InfrastructureError, match="Stale file handle"):
        read("m.tex")


@pytest.mark.parametrize("packed", [True, False])
def test_a_paper_has_a_bound(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latex, "MAX_PAPER_BYTES", 1000)
    files = {"m.tex": main_of(r"Paper. \input{one}"), "one.tex": "x" * 1001}
    write_archive("a.tar.gz", files)
    for name, text in files.items():
        Path(name).write_text(text)
    (record,) = read("a.tar.gz" if packed else "m.tex")
    assert isinstance(record, Unreadable) and record.reason == "too_large"


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "link", "loop", "x" * 300])
def test_nothing_outside_the_directory_of_the_main_file_is_included(tmp_path: Path, name: str) -> None:
    Path("in").mkdir()
    Path("secret.tex").write_text("SECRET")
    Path("in/link.tex").symlink_to(tmp_path / "secret.tex")
    Path("in/loop.tex").symlink_to(tmp_path / "in/loop.tex")
    Path("in/main.tex").write_text(f"\\documentclass{{x}}\\begin{{document}}\\input{{{name}}}\\end{{document}}")
    assert read("in/main.tex")[0].text == f"\\input{{{name}}}\n"


def test_the_identity_covers_what_may_be_included() -> None:
    Path("main.tex").write_text(MAIN)
    Path("sec").mkdir()
    Path("sec/one.tex").write_text("One.")
    source = LatexSource(name="papers", kind="latex", paths=("main.tex",))
    assert set(READERS["latex"].identity(source, lambda path: "d")) == {"main.tex", "sec/one.tex"}
