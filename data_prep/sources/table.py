"""The table of source kinds: a new kind is one file in `sources/`, its config in `configs/data.py`, and a line here."""

from data_prep.sources import (
    csv_tables,
    docstrings,
    hugging_face,
    json_lines,
    latex,
    markup,
    package_text,
    parquet,
    plain_text,
    warc,
)
from data_prep.sources.document import Reader

READERS: dict[str, Reader] = {
    "json_lines": Reader(
        json_lines.spans, json_lines.identity, json_lines.read, split=json_lines.split, cut=json_lines.cut
    ),
    "parquet": Reader(parquet.spans, parquet.identity, parquet.read, split=parquet.split),
    "plain_text": Reader(
        plain_text.spans, plain_text.identity, plain_text.read, split=plain_text.split, cut=plain_text.cut
    ),
    "csv": Reader(csv_tables.spans, csv_tables.identity, csv_tables.read),
    "markup": Reader(markup.spans, markup.identity, markup.read),
    "latex": Reader(latex.spans, latex.identity, latex.read),
    "warc": Reader(warc.spans, warc.identity, warc.read),
    "hugging_face": Reader(hugging_face.spans, hugging_face.identity, hugging_face.read, split=hugging_face.split),
    "package_text": Reader(package_text.spans, package_text.identity, package_text.read),
    "docstrings": Reader(docstrings.spans, docstrings.identity, docstrings.read),
}
