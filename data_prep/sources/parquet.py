"""The source `parquet`: files read a row group at a time, and only the columns that the config names."""

from collections.abc import Iterator
from typing import Any

from pydantic import JsonValue

from configs.data import ParquetSource
from data_prep.sources.document import Digest, Document, Unreadable
from data_prep.sources.file_parts import cannot_open, damaged, digest_files, display_name, expand_paths
from data_prep.sources.record_fields import check_columns, to_document

_BATCH_ROWS = 1024


def parts(config: ParquetSource) -> tuple[str, ...]:
    """Return the files, each once."""
    return expand_paths(config)


def identity(config: ParquetSource, digest: Digest) -> JsonValue:
    """Return the name and digest of every file."""
    return digest_files(config, digest)


def read(config: ParquetSource, part: str) -> Iterator[Document | Unreadable]:
    """Yield the rows of one file, numbered from 1. Raises UserError if a column is missing or the file is damaged."""
    name, number = display_name(part), 0
    for batch in _read_batches(config, part):
        for record in _to_records(batch):
            number += 1
            where = f"{name}:{number}"
            yield Unreadable(where, record) if isinstance(record, str) else to_document(config, record, where)


def _read_batches(config: ParquetSource, part: str) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    rows = 0
    try:
        with parquet.ParquetFile(part) as file:
            columns = check_columns(config, display_name(part), file.schema_arrow.names)
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                    yield batch
                    rows += batch.num_rows
    except (PermissionError, FileNotFoundError) as error:
        raise cannot_open(config.name, part, error) from error
    # Arrow says "not Parquet" and "broken off" with ArrowInvalid, and what does not decode with OSError.
    except (pyarrow.ArrowInvalid, OSError) as error:
        if rows:
            raise damaged(config.name, part, after=f" after record {rows}") from error
        raise damaged(config.name, part, what="is not Parquet, or is") from error


def _to_records(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Yield each row of a batch, or the reason why it cannot become Python values."""
    try:
        yield from batch.to_pylist()
        return
    except ValueError:  # of some row in the batch: converted one by one, the rows show which
        pass
    for index in range(batch.num_rows):
        try:
            yield batch.slice(index, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield "invalid_utf8"
        except ValueError:
            yield "bad_metadata"
