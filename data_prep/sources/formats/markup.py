"""The source `markup`: Markdown and reStructuredText files, as they are written or as they read when rendered."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from pydantic import JsonValue

from configs.data.languages import normalize_language
from configs.data.sources import MarkupSource
from data_prep.sources.document import Digest, Document, Entry, Span, Unreadable
from data_prep.sources.file_parts import read_bytes
from data_prep.sources.listing import digest_files, list_files

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(
    r"\A(?:---[ \t]*\n(?=(?:[ \t]*\#[^\n]*\n)*(?:[\w\"'][^\n:]*:[ \t\n]|---))(?:[^\n]*\n)*?(?:---|\.\.\.)"
    r"|\+\+\+[ \t]*\n(?:[^\n]*\n)*?\+\+\+)[ \t]*(?:\n|\Z)"
)
"""YAML, which begins with a key, or TOML; two rules with text between them are none."""

_FENCE = re.compile(r"^(?:[ \t]|[-*+][ \t]|[0-9]{1,9}[.)][ \t]|>)*+(?P<mark>`{3,}+(?!.*`)|~{3,}+)", re.MULTILINE)
_CODE_OR_COMMENT = re.compile(r"(?P<ticks>`++)|(?P<indent>^(?: {4}|\t)[^\n]*+)|<!--", re.MULTILINE)
_RST_COMMENT = re.compile(
    r"(?:^\.\.[ \t]++(?![\w:.+-]+ ?::|\[|_|\|)[^\n]+|(?:\A|(?<=\n\n))\.\.[ \t]*+(?=\n[ \t]+\S))(?:\n|\Z)"
    r"(?:(?:[ \t]+[^\n]*|[ \t]*)(?:\n|\Z))*",
    re.MULTILINE,
)
"""Two dots and what is indented below them, unless it is a directive, a footnote, a target or a substitution."""

MAX_RENDERED_CHARACTERS = 1 << 20
"""A file that is longer is not rendered: some take the libraries half a minute for so much."""

_ERROR = 3  # the level at which docutils has left out what it quotes


def spans(config: MarkupSource) -> tuple[Span, ...]:
    """Return the files, each once."""
    return list_files(config)


def identity(config: MarkupSource, digest: Digest) -> JsonValue:
    """Return the name and digest of every file."""
    return digest_files(config, digest)


def read(config: MarkupSource, span: Span) -> Iterator[Entry]:
    """Yield the document of a file, or of each member of an archive; its id is the file's name."""
    for file in read_bytes(config.name, span):
        if isinstance(file, Unreadable):
            yield file
            continue
        name, data = file
        try:
            text = data.decode().replace("\r\n", "\n")
        except UnicodeDecodeError:
            yield Unreadable(name, "invalid_utf8")
            continue
        is_rst = config.format == "rst" or (config.format == "by_suffix" and name.lower().endswith((".rst", ".rest")))
        extract = (_RST if is_rst else _MARKDOWN)[config.text]
        if config.text == "plain" and len(text) > MAX_RENDERED_CHARACTERS:
            detail = f"it has more than {MAX_RENDERED_CHARACTERS:,} characters; `text: source` takes it"
            yield Unreadable(name, "too_large", detail)
            continue
        language = normalize_language(config.language)
        try:
            extracted = extract(text)
        except RecursionError:
            yield Unreadable(name, "nested_too_deep")
            continue
        yield Document(f"{config.name}/{name}", extracted, language, config.name)


def markdown_source(text: str) -> str:
    """Return Markdown without front matter and comments; what is in code blocks stays."""
    text = _FRONT_MATTER.sub("", text, count=1)
    pieces, done = [], 0
    while fence := _FENCE.search(text, done):
        end = _find_end_of_code(text, fence)
        pieces += [_without_comments(text[done : fence.start()]), text[fence.start() : end]]
        done = end
    return "".join([*pieces, _without_comments(text[done:])])


def _find_end_of_code(text: str, fence: re.Match[str]) -> int:
    """Return where a block of code ends: at a line of as many marks or more, else with the text (CommonMark, 4.5)."""
    mark = fence["mark"]
    closing = re.compile(rf"\n[ \t]*+{mark}{mark[0]}*+[ \t]*+(?=\n|\Z)").search(text, fence.end())
    return closing.end() if closing else len(text)


def _without_comments(text: str) -> str:
    """Return text without comments; what is in code, between backticks or indented, stays."""
    pieces, done, place, unclosed = list[str](), 0, 0, set[int]()
    paragraph = -1
    while match := _CODE_OR_COMMENT.search(text, place):
        place = match.end()
        if match["indent"]:
            continue
        if match["ticks"]:
            if match.start() > paragraph:  # code between backticks ends with the paragraph at the latest
                end = text.find("\n\n", place)
                paragraph, unclosed = (len(text) if end < 0 else end), set()
            number = len(match["ticks"])
            closing = None
            if number not in unclosed:
                closing = re.compile(rf"(?<!`)`{{{number}}}(?!`)").search(text, place, paragraph)
            if closing is None:
                unclosed.add(number)
            else:
                place = closing.end()
            continue
        if (end := text.find("-->", place)) < 0:
            break
        pieces.append(text[done : match.start()])
        done = place = end + 3
    return "".join([*pieces, text[done:]])


def markdown_plain(text: str) -> str:
    """Return what is read of Markdown: headings, paragraphs, items, cells and code, apart by blank lines."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(markdown_source(text))
    blocks = []
    for token in tokens:
        if token.type in ("fence", "code_block"):
            blocks.append(token.content.rstrip("\n"))
        elif token.type == "inline":
            blocks.append("".join(_inline(child) for child in token.children or ()))
    return "\n\n".join(block for block in blocks if block.strip())


def _inline(token: "Token") -> str:
    if token.type in ("softbreak", "hardbreak"):
        return "\n"
    return token.content if token.type in ("text", "code_inline", "text_special", "image") else ""


def rst_source(text: str) -> str:
    """Return reStructuredText without its comments."""
    return _RST_COMMENT.sub("\n", text)


def rst_plain(text: str) -> str:
    """Return what is read of reStructuredText: its blocks of text, code and math, apart by blank lines.

    What docutils does not know, such as roles and directives of Sphinx, stays as it is written; what docutils says of
    it is no text. Raises RecursionError if blocks are nested some hundreds of levels deep.
    """
    from docutils import nodes
    from docutils.core import publish_doctree
    from docutils.parsers.rst import roles

    cast(Any, roles)._roles.clear()  # of the documents read before, which docutils keeps
    settings = {
        "report_level": 5,
        "halt_level": 6,
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "_disable_config": True,
        "syntax_highlight": "none",
        "line_length_limit": MAX_RENDERED_CHARACTERS,
    }
    tree = publish_doctree(rst_source(text), settings_overrides=settings)
    kinds = (nodes.title, nodes.subtitle, nodes.paragraph, nodes.term, nodes.literal_block, nodes.math_block)
    blocks = [
        node.astext().strip("\n")
        for node in tree.findall(lambda node: isinstance(node, kinds))
        if not _is_message(node)
    ]
    return "\n\n".join(block for block in blocks if block.strip())


def _is_message(node: Any) -> bool:
    """Return whether docutils has put a block in: a message, or what a mere warning quotes, which is read already."""
    from docutils import nodes

    message = node.parent
    if not isinstance(message, nodes.system_message):
        return False
    return isinstance(node, nodes.paragraph) or message["level"] < _ERROR


_MARKDOWN = {"source": markdown_source, "plain": markdown_plain}
_RST = {"source": rst_source, "plain": rst_plain}
