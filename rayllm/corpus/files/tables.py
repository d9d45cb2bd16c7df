"""Arrow tables at URIs, as Parquet: one atomic write each, the cause named when it fails."""

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayllm.core import storage
from rayllm.core.artifact import FileRecord
from rayllm.core.errors import SetupError

ROW_GROUP_ROWS = 8192
#: Columns of which many rows hold the same value.
REPEATED = frozenset(("source", "metadata", "reason", "part"))

#: A row of the corpus.
CORPUS_SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("source", pa.string()), ("metadata", pa.string())]
)


def write_table(uri: str, table: pa.Table, compression: str = "zstd") -> FileRecord:
    """Write one table; the same table gives the same bytes.

    Only columns whose values repeat are dictionary-coded: of texts it would make the writing half as fast again.

    Raises:
        SetupError: If it cannot be written, with the cause.
    """
    repeated = [name for name in table.column_names if name in REPEATED]
    sink = io.BytesIO()
    dictionary: Any = repeated  # pyarrow's stub knows only yes or no
    pq.write_table(table, sink, compression=compression, row_group_size=ROW_GROUP_ROWS, use_dictionary=dictionary)
    return write_checked(uri, sink.getvalue())


def write_groups(uri: str, groups: Sequence[pa.Table]) -> FileRecord:
    """Write tables of one schema as the row groups of one file, so that each can be read alone."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, groups[0].schema, compression="zstd") as writer:
        for group in groups:
            writer.write_table(group, row_group_size=max(1, group.num_rows))
    return write_checked(uri, sink.getvalue())


def write_checked(uri: str, data: bytes) -> FileRecord:
    """Write a file of the corpus, see ``write_table``; its record's path is the URI."""
    with named_write_errors(uri):
        storage.write_bytes(uri, data)
    return FileRecord(path=uri, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


@contextlib.contextmanager
def named_write_errors(uri: str) -> Iterator[None]:
    """Say what could not be written, why, and what to do.

    Raises:
        SetupError: In place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise SetupError(
            "the corpus cannot be written",
            where=uri,
            why=error.strerror or str(error),
            fix="free some space, or set `storage=` to a place with room that you may write to",
        ) from error


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """Read a table written by ``write_table``."""
    with storage.open_file(uri) as file:
        return pq.ParquetFile(file).read(columns=columns)


def read_group(uri: str, group: int) -> pa.Table:
    """Read one row group of a file written by ``write_groups``."""
    with storage.open_file(uri) as file:
        return pq.ParquetFile(file).read_row_group(group)
