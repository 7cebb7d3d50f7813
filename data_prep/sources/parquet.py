"""Apache Parquet files, read a row group at a time and only the columns that the config names."""

from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue

from configs.data import ParquetSource
from data_prep.sources import file_parts as files
from data_prep.sources import record_fields as records
from data_prep.sources.document import Digest, Document, Unreadable

_BATCH_ROWS = 1024


def parts(config: ParquetSource) -> tuple[str, ...]:
    """The files."""
    return files.expand(config)


def identity(config: ParquetSource, digest: Digest) -> JsonValue:
    """Name and digest of every file."""
    return files.file_identity(config, digest)


def read(config: ParquetSource, part: str) -> Iterator[Document | Unreadable]:
    """Rows of one file, numbered from 1. Raises UserError if a column is missing or the file is damaged."""
    name, number = files.display(part), 0
    for batch in _batches(config, part):
        for record in _records(batch):
            number += 1
            where = f"{name}:{number}"
            yield Unreadable(where, record) if isinstance(record, str) else records.to_document(config, record, where)


def _batches(config: ParquetSource, part: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    rows = 0
    try:
        with parquet.ParquetFile(part) as file:
            columns = records.check_columns(config, files.display(part), file.schema_arrow.names)
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                    yield batch
                    rows += batch.num_rows
    except (PermissionError, FileNotFoundError) as error:
        raise files.cannot_open(config.name, part, error) from error
    # Arrow says "not Parquet" and "broken off" with ArrowInvalid, and what does not decode with OSError.
    except (pyarrow.ArrowInvalid, OSError) as error:
        if rows:
            raise files.damaged(config.name, part, after=f" after record {rows}") from error
        raise files.damaged(config.name, part, what="is not Parquet, or is") from error


def _records(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Rows of a batch; a row that cannot become Python values is the reason why."""
    try:
        yield from batch.to_pylist()
        return
    except ValueError:  # somewhere in the batch: the rows one by one say where
        pass
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield "invalid_utf8"
        except ValueError:
            yield "bad_metadata"
