"""Shared by the sources whose records have named fields: make a document of a record, or say what is wrong with it."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic import JsonValue

from configs.base import UserError
from configs.data.languages import normalize_language
from configs.data.sources import CsvSource, HuggingFaceSource, JsonLinesSource, ParquetSource
from configs.text import shorten
from data_prep.sources.document import Document, Unreadable

FieldSource = JsonLinesSource | ParquetSource | CsvSource | HuggingFaceSource

_MAX_NAMED_CHARACTERS = 200


@dataclass(frozen=True)
class Unlabelled:
    """Why a tag gives no language label."""

    detail: str


def to_document(config: FieldSource, record: Mapping[str, Any], where: str) -> Document | Unreadable:
    """Return the document that a record holds, or why it holds none.

    `where` is the record's file and number; it is the document's id if the config has no `id_field`.
    """
    text = record.get(config.text_field)
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError:
            return Unreadable(where, "invalid_utf8")
    if not isinstance(text, str):
        return _explain_text(config, record, where)
    identifier = where if config.id_field is None else record.get(config.id_field)
    if identifier is None:
        return Unreadable(where, "missing_field", f"no '{config.id_field}' {_fields(record)}")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        return Unreadable(where, "bad_id", f"'{config.id_field}' is neither text nor a whole number")
    language = find_label(None if config.language_field is None else record.get(config.language_field), config.language)
    if isinstance(language, Unlabelled):
        return Unreadable(where, "bad_language", language.detail)
    try:
        metadata = _to_json({key: record[key] for key in config.metadata_fields if key in record})
        f"{identifier}{text}".encode()
    except UnicodeEncodeError:
        return Unreadable(where, "invalid_utf8")
    except (TypeError, ValueError, RecursionError) as error:
        return Unreadable(where, "bad_metadata", str(error))
    return Document(f"{config.name}/{identifier}", text, language, config.name, metadata)


def find_label(tag: object, default: str) -> str | Unlabelled:
    """Return the label of a document's own language tag, or of the source's `default` if it has none."""
    if tag is None or tag == "":
        return normalize_language(default)
    return _label(tag) if isinstance(tag, str) else Unlabelled(f"a language tag is text, not {type(tag).__name__}")


@lru_cache(maxsize=1 << 16)
def _label(tag: str) -> str | Unlabelled:
    try:
        return normalize_language(tag)
    except ValueError as error:
        return Unlabelled(str(error))


def check_columns(config: FieldSource, where: str, columns: Sequence[str]) -> list[str]:
    """Return the columns that the config names. Raises UserError if `columns` lacks one, or has it twice."""
    optional = [column for column in (config.id_field, config.language_field) if column is not None]
    wanted = list(dict.fromkeys([config.text_field, *optional, *config.metadata_fields]))
    number = Counter(columns)
    for column in wanted:
        if number[column] > 1:
            raise UserError(f"source '{config.name}': {where} has {number[column]} columns '{column}'; rename them")
        if not number[column]:
            near = get_close_matches(column, columns, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "name one of its columns"
            raise UserError(
                f"source '{config.name}': {where} has no column '{column}'; {hint} (columns: {', '.join(columns)})"
            )
    return wanted


def _explain_text(config: FieldSource, record: Mapping[str, Any], where: str) -> Unreadable:
    field = config.text_field
    if field not in record:
        near = get_close_matches(field, record, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return Unreadable(where, "missing_field", f"no '{field}' {_fields(record)}{hint}; set text_field")
    others = [key for key, value in record.items() if isinstance(value, str)]
    there = f"; fields with text: {_names(others)}" if others else ""
    return Unreadable(where, "not_text", f"'{field}' is {type(record[field]).__name__}{there}")


def _fields(record: Mapping[str, Any]) -> str:
    return f"among its fields, {_names(list(record))}" if record else "in it, which is empty"


def _names(fields: Sequence[str]) -> str:
    return shorten(", ".join(fields), _MAX_NAMED_CHARACTERS)


def _to_json(metadata: dict[str, Any]) -> dict[str, JsonValue]:
    """Return the metadata as JSON values: dates in ISO 8601, None for NaN and infinities.

    Raises TypeError for what JSON cannot hold.
    """
    if not metadata:
        return {}
    text = json.dumps(metadata, ensure_ascii=False, default=_format_date)
    text.encode()
    plain: dict[str, JsonValue] = json.loads(text, parse_constant=lambda _: None)
    return plain


def _format_date(value: Any) -> str:
    if not hasattr(value, "isoformat"):
        raise TypeError(f"{type(value).__name__} is nothing that JSON holds")
    return str(value.isoformat())
