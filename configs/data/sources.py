"""The settings of sources: where text is, how its records are read, which language they are in."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from configs.base import AddedLater, Config, Name
from configs.data.languages import normalize_language
from configs.paths import FilePattern, PathText


def _check_language(tag: str) -> str:
    normalize_language(tag)
    return tag


Language = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", max_length=35), AfterValidator(_check_language)]
"""A language tag, for example `sw`, `swh_Latn` or `zh-Hant`; `und` is undetermined. configs/data/languages.py has the
label that it gives."""


class _Source(Config):
    name: Name
    """Name of the source, which appears in counts, in the mixture and in the lineage."""

    language: Language = "und"
    """Language of every document for which `language_field` or `language_column` gives none."""

    license: Annotated[str | None, Field(min_length=1, max_length=200), AddedLater()] = None
    """Licence of the text, for the model card: an identifier of the Hugging Face Hub such as `cc-by-4.0`, or words."""

    fix_encoding: bool = False
    """Mend text that was decoded by another encoding than it was written in (`cafÃ©`, C1 controls of Windows-1252), by
    the rules of ftfy. The documents that it changes are counted."""


class _FieldSource(_Source):
    text_field: str = "text"
    """Field that holds the text."""

    id_field: str | None = None
    """Field that holds a stable id. Left out: the id is the file's name and the record's number in it."""

    language_field: str | None = None
    """Field that holds the language tag of a document. A document whose field is empty is in `language`."""

    metadata_fields: tuple[str, ...] = ()
    """Fields to keep as metadata of each document."""


class JsonLinesSource(_FieldSource):
    """JSON lines: one object a line, in UTF-8, or UTF-16 with a byte-order mark. What gzip, Zstandard, xz or bzip2 has
    compressed is known by its first bytes, whatever the file's name, and decompressed as it is read."""

    kind: Literal["json_lines"]
    """JSON lines, plain or compressed."""

    paths: tuple[FilePattern, ...] = Field(min_length=1)
    """Files or glob patterns, relative to the directory the command is run in, or URLs (`s3://`, `https://`, ...)."""


class ParquetSource(_FieldSource):
    """Parquet files, read a row group at a time."""

    kind: Literal["parquet"]
    """Apache Parquet."""

    paths: tuple[FilePattern, ...] = Field(min_length=1)
    """Files or glob patterns, relative to the directory the command is run in, or URLs (`s3://`, `https://`, ...)."""


class PlainTextSource(_Source):
    """Plain text files, in UTF-8, or UTF-16 with a byte-order mark; decompressed like JSON lines."""

    kind: Literal["plain_text"]
    """Plain text, plain or compressed."""

    paths: tuple[FilePattern, ...] = Field(min_length=1)
    """Files or glob patterns, relative to the directory the command is run in, or URLs (`s3://`, `https://`, ...)."""

    document: Literal["file", "paragraph", "line"] = "paragraph"
    """What one document is: the whole file, the lines between two blank lines, or a line."""


class CsvSource(_FieldSource):
    """Tables of delimited text, as RFC 4180 has them: the first row names the columns."""

    kind: Literal["csv"]
    """CSV or TSV with a header row, plain or compressed."""

    paths: tuple[FilePattern, ...] = Field(min_length=1)
    """Files or glob patterns, relative to the directory the command is run in, or URLs (`s3://`, `https://`, ...)."""

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    """Character between columns; `"\\t"` for TSV. A value in quotation marks may hold it, and line ends."""


class MarkupSource(_Source):
    """Markdown or reStructuredText files, each of which is a document."""

    kind: Literal["markup"]
    """Markdown or reStructuredText."""

    paths: tuple[FilePattern, ...] = Field(min_length=1)
    """Files or glob patterns, relative to the directory the command is run in, or URLs (`s3://`, `https://`, ...)."""

    format: Literal["markdown", "rst", "by_suffix"] = "by_suffix"
    """What the files are; by_suffix: `.rst` and `.rest` are reStructuredText, all others Markdown."""

    text: Literal["source", "plain"] = "source"
    """source: the text as it is written, without front matter and comments. plain: what is read of it when it is
    rendered; code and math stay as they are."""


class LatexSource(_Source):
    """LaTeX papers: a document is a main file with what it includes, alone or in a tar archive as arXiv has them.

    Comments and the preamble are taken out, `\\input` and `\\include` are put in, and macros of the author's own are
    expanded where that is safe. Math stays as it is written.
    """

    kind: Literal["latex"]
    """LaTeX, as main files or as archives of a paper's files."""

    paths: tuple[FilePattern, ...] = Field(min_length=1)
    """Main files, `.tar.gz` archives, `.gz` of a single file, or glob patterns; or URLs (`s3://`, `https://`, ...)."""


class WarcSource(_Source):
    """Web archives: each page that was answered with success is a document."""

    kind: Literal["warc"]
    """WARC or WET files, plain or gzip."""

    paths: tuple[FilePattern, ...] = Field(min_length=1)
    """Files or glob patterns, relative to the directory the command is run in, or URLs (`s3://`, `https://`, ...)."""

    main_content: bool = True
    """Take the main text of a page only, without its navigation, footers and the like."""


class HuggingFaceSource(_FieldSource):
    """A Hugging Face dataset, streamed."""

    kind: Literal["hugging_face"]
    """A dataset on the Hugging Face Hub or in a local directory."""

    path: PathText
    """Name on the Hub (`owner/name`), or a local directory: one that `save_to_disk` wrote, or one of data files."""

    subset: str | None = None
    """Configuration name of the dataset, often a language."""

    split: str = "train"
    """Split to read."""

    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """Commit of the dataset on the Hub, all 40 hex digits. Required for a name on the Hub, since a branch may move."""

    streaming: bool = True
    """Read over the network while cleaning; false downloads the whole split first."""


class PackageTextSource(_Source):
    """A delimited text file inside an installed Python package, read in place."""

    kind: Literal["package_text"]
    """A delimited text file inside an installed Python package."""

    package: str
    """Import name of the installed package."""

    path: str
    """File inside the package, relative to the package's directory."""

    delimiter: str = Field(default="\t", min_length=1, max_length=1)
    """Character between columns. There is no quoting; the last column that is named here has the rest of the line."""

    text_column: int = Field(default=0, ge=0)
    """Column of the text, counted from 0."""

    language_column: int | None = Field(default=None, ge=0)
    """Column of the language tag, counted from 0. Left out: every document is in `language`."""


class DocstringsSource(_Source):
    """Docstrings of installed Python packages, parsed from their source files without importing them."""

    kind: Literal["docstrings"]
    """Docstrings of installed Python packages."""

    packages: tuple[str, ...] = Field(min_length=1)
    """Import names of the packages."""


Source = Annotated[
    JsonLinesSource
    | ParquetSource
    | PlainTextSource
    | CsvSource
    | MarkupSource
    | LatexSource
    | WarcSource
    | HuggingFaceSource
    | PackageTextSource
    | DocstringsSource,
    Field(discriminator="kind"),
]
