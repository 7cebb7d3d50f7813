"""Shared by the sources whose records have named fields: make a document of a record, or say what is wrong with it."""

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import JsonValue

from configs.base import UserError
from configs.data import HuggingFaceSource, JsonLinesSource, ParquetSource
from data_prep.sources.document import Document, Unreadable

FieldSource = JsonLinesSource | ParquetSource | HuggingFaceSource

_LANGUAGE = re.compile(r"[A-Za-z0-9_-]{1,35}")


def to_document(config: FieldSource, record: Mapping[str, Any], where: str) -> Document | Unreadable:
    """Return the document that a record holds, or why it holds none.

    `where` is the record's file and number; it is the document's id if the config has no `id_field`.
    """
    if reason := _find_flaw(config, record):
        return Unreadable(where, reason)
    try:
        metadata = _to_json({key: record[key] for key in config.metadata_fields if key in record})
        identifier = where if config.id_field is None else record[config.id_field]
        text = record[config.text_field]
        f"{identifier}{text}".encode()
    except UnicodeEncodeError:
        return Unreadable(where, "invalid_utf8")
    except (TypeError, ValueError, RecursionError):
        return Unreadable(where, "bad_metadata")
    return Document(f"{config.name}/{identifier}", text, _read_language(config, record) or "", config.name, metadata)


def check_language(tag: object, default: str) -> str | None:
    """Return the document's own language tag, or the source's `default` if it has none; None if the tag is invalid."""
    if tag is None or tag == "":
        return default
    return tag if isinstance(tag, str) and _LANGUAGE.fullmatch(tag) else None


def check_columns(config: FieldSource, where: str, columns: Sequence[str]) -> list[str]:
    """Return the columns that the config names. Raises UserError if `columns` lacks one."""
    optional = [column for column in (config.id_field, config.language_field) if column is not None]
    wanted = list(dict.fromkeys([config.text_field, *optional, *config.metadata_fields]))
    for column in wanted:
        if column not in columns:
            near = get_close_matches(column, columns, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "name one of its columns"
            raise UserError(
                f"source '{config.name}': {where} has no column '{column}'; {hint} (columns: {', '.join(columns)})"
            )
    return wanted


def _find_flaw(config: FieldSource, record: Mapping[str, Any]) -> str | None:
    if config.text_field not in record or (config.id_field is not None and record.get(config.id_field) is None):
        return "missing_field"
    if not isinstance(record[config.text_field], str):
        return "not_text"
    identifier = "-" if config.id_field is None else record[config.id_field]
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or identifier == "":
        return "bad_id"
    return None if _read_language(config, record) else "bad_language"


def _read_language(config: FieldSource, record: Mapping[str, Any]) -> str | None:
    tag = record.get(config.language_field) if config.language_field is not None else None
    return check_language(tag, config.language)


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
        raise TypeError(type(value).__name__)
    return str(value.isoformat())
