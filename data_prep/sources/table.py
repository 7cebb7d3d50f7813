"""The table of source kinds: a new kind is a file in this folder, a config in configs/data/sources.py, a line here."""

from data_prep.sources import docstrings, hugging_face, package_text
from data_prep.sources.document import Reader
from data_prep.sources.formats import csv_tables, json_lines, latex, markup, parquet, plain_text, warc

READERS: dict[str, Reader] = {
    "json_lines": Reader(
        json_lines.spans, json_lines.identity, json_lines.read, split=json_lines.split, cut=json_lines.cut
    ),
    "parquet": Reader(parquet.spans, parquet.identity, parquet.read, split=parquet.split),
    "plain_text": Reader(
        plain_text.spans,
        plain_text.identity,
        plain_text.read,
        split=plain_text.split,
        cut=plain_text.cut,
        is_file_a_document=plain_text.is_file_a_document,
    ),
    "csv": Reader(csv_tables.spans, csv_tables.identity, csv_tables.read),
    "markup": Reader(markup.spans, markup.identity, markup.read, is_file_a_document=lambda config: True),
    "latex": Reader(latex.spans, latex.identity, latex.read, is_file_a_document=lambda config: True),
    "warc": Reader(warc.spans, warc.identity, warc.read),
    "hugging_face": Reader(hugging_face.spans, hugging_face.identity, hugging_face.read, split=hugging_face.split),
    "package_text": Reader(package_text.spans, package_text.identity, package_text.read),
    "docstrings": Reader(docstrings.spans, docstrings.identity, docstrings.read),
}
