"""The table of source kinds: a new kind is one file in `sources/`, its config in `configs/data.py`, and a line here."""

from data_prep.sources import docstrings, hugging_face, json_lines, package_text, parquet, plain_text
from data_prep.sources.document import Reader

READERS: dict[str, Reader] = {
    "json_lines": Reader(json_lines.parts, json_lines.identity, json_lines.read),
    "parquet": Reader(parquet.parts, parquet.identity, parquet.read),
    "plain_text": Reader(plain_text.parts, plain_text.identity, plain_text.read),
    "hugging_face": Reader(hugging_face.parts, hugging_face.identity, hugging_face.read),
    "package_text": Reader(package_text.parts, package_text.identity, package_text.read),
    "docstrings": Reader(docstrings.parts, docstrings.identity, docstrings.read),
}
