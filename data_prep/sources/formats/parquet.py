"""The source `parquet`: files read a row group at a time, and only the columns that the config names."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue

from cluster.storage.errors import error_class
from configs.base import InfrastructureError, UserError
from configs.data.sources import ParquetSource
from configs.text import one_line
from data_prep.sources.document import Digest, Document, Span, Unreadable
from data_prep.sources.file_parts import cannot_open, damaged, display_name
from data_prep.sources.listing import digest_files, list_files
from data_prep.sources.record_fields import check_columns, to_document
from data_prep.sources.remote_files import is_url, open_file

_BATCH_ROWS = 1024


def spans(config: ParquetSource) -> tuple[Span, ...]:
    """Return the files, each once."""
    return list_files(config)


def split(config: ParquetSource, span: Span, num_bytes: int) -> tuple[Span, ...]:
    """Cut a file into ranges of row groups. A span's start and stop are numbers of row groups."""
    if span.num_bytes <= num_bytes * 3 // 2:
        return (span,)
    with _explained(config, span), _open(span.name) as file:
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    return _group(span, sizes, num_bytes)


def _group(span: Span, sizes: list[tuple[int, int]], num_bytes: int) -> tuple[Span, ...]:
    found, start, first, rows, taken = list[Span](), 0, 1, 0, 0
    for number, (num_rows, size) in enumerate(sizes, 1):
        rows, taken = rows + num_rows, taken + size
        if taken >= num_bytes or number == len(sizes):
            found.append(replace(span, start=start, stop=number, first=first, num_bytes=taken))
            start, first, taken = number, rows + 1, 0
    return tuple(found) or (span,)


def identity(config: ParquetSource, digest: Digest) -> JsonValue:
    """Return the name and digest of every file."""
    return digest_files(config, digest)


def read(config: ParquetSource, span: Span) -> Iterator[Document | Unreadable]:
    """Yield the rows of a span, numbered from 1 in the file.

    Raises UserError if a column is missing or holds no text, or if the file is damaged.
    """
    name, number = display_name(span.name), span.first - 1
    for batch in _read_batches(config, span):
        for record in to_records(batch):
            number += 1
            where = f"{name}:{number}"
            yield Unreadable(where, *record) if isinstance(record, tuple) else to_document(config, record, where)


def to_records(batch: Any) -> Iterator[dict[str, Any] | tuple[str, str]]:
    """Yield each row of an Arrow batch, or the reason and the detail why it cannot become Python values."""
    try:
        yield from batch.to_pylist()
        return
    except Exception:  # whatever Arrow, pytz and datetime raise for some value: the rows show for which
        pass
    for index in range(batch.num_rows):
        yield _to_record(batch, index)


def _to_record(batch: Any, index: int) -> dict[str, Any] | tuple[str, str]:
    record = {}
    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            record[column] = values[index].as_py()
        except UnicodeDecodeError:
            return "invalid_utf8", f"in column '{column}'"
        except Exception as error:
            # A date past the year 9999, or in a time zone that nobody knows, stays the number that is stored.
            number = getattr(values[index], "value", None)
            if not isinstance(number, int):
                return "bad_metadata", f"column '{column}', {values.type}: {one_line(error)}"
            record[column] = number
    return record


def _read_batches(config: ParquetSource, span: Span) -> Iterator[Any]:
    with _explained(config, span) as position, _open(span.name) as file:
        schema, where = file.schema_arrow, display_name(span.name)
        columns = check_columns(config, where, schema.names)
        _check_text_column(config, where, schema)
        last = file.num_row_groups if span.stop is None else span.stop
        for group in range(span.start, last):
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                yield batch
                position.num_rows += batch.num_rows


@contextmanager
def _open(name: str) -> Iterator[Any]:
    from pyarrow import parquet

    with ExitStack() as stack:
        file = stack.enter_context(open_file(name)) if is_url(name) else name
        yield stack.enter_context(parquet.ParquetFile(file))


def _check_text_column(config: ParquetSource, where: str, schema: Any) -> None:
    """Raise UserError if the column of the text has another type than text, or than bytes, which may be UTF-8."""
    kind = str(schema.field(config.text_field).type)
    if not _is_text(kind):
        others = [field.name for field in schema if _is_text(str(field.type))]
        there = f"columns of text: {', '.join(others)}" if others else "there is no column of text"
        raise UserError(
            f"source '{config.name}': column '{config.text_field}' of {where} is {kind}, not text; name another as "
            f"text_field ({there})"
        )


def _is_text(kind: str) -> bool:
    """Return whether an Arrow type, as it is written, is text or bytes, also where a dictionary keeps them."""
    return kind.startswith(("dictionary<values=string", "dictionary<values=large_string")) or kind in (
        "string",
        "large_string",
        "string_view",
        "binary",
        "large_binary",
        "binary_view",
    )


@dataclass
class _Position:
    num_rows: int = 0


@contextmanager
def _explained(config: ParquetSource, span: Span) -> Iterator[_Position]:
    """Raise what Arrow says of a file as a UserError, after how many rows it was."""
    import pyarrow

    position = _Position()
    try:
        yield position
    except (PermissionError, FileNotFoundError) as error:
        raise cannot_open(config.name, span.name, error) from error
    except pyarrow.ArrowNotImplementedError as error:
        raise UserError(
            f"source '{config.name}': {display_name(span.name)} cannot be read by pyarrow {pyarrow.__version__} "
            f"({one_line(error)}); write it again in another encoding, or without that column"
        ) from error
    # Arrow says "not Parquet" and "broken off" with ArrowInvalid, and what does not decode with OSError.
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error_class(error) is InfrastructureError:
            raise cannot_open(config.name, span.name, error) from error
        if position.num_rows:
            after = f" after record {span.first - 1 + position.num_rows}"
            raise damaged(config.name, span.name, after=after) from error
        raise damaged(config.name, span.name, what="is not Parquet, or is") from error
