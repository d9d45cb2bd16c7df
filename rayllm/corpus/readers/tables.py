"""Parquet and Arrow tables to documents, a few rows at a time: memory does not grow with row groups or files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayllm.corpus.documents import BadRow, Document, FileRef, Row, Unit, UnusableRow, Unwanted
from rayllm.corpus.files.cuts import ARROW_MAGIC
from rayllm.corpus.files.lines import EXPANSION_FREE_BYTES, MAX_EXPANSION
from rayllm.corpus.files.opening import is_damage, open_seekable
from rayllm.corpus.readers.rows import MakeDocument, row_document
from rayllm.corpus.sources.rows import ArrowSource

#: Rows turned into Python objects at a time: as many as have about so many bytes, within these limits.
_BATCH_BYTES = 4 << 20
_MAX_BATCH_ROWS = 256
#: Row groups up to this, in bytes, are fetched as a whole, in few requests; larger ones by columns, so much at a time.
_WHOLE_GROUP_BYTES = 32 << 20
_READ_BYTES = 4 << 20

#: Makes a document of a row of one file.
_Make = Callable[[Mapping[str, Any]], Document | Unwanted]


def read_parquet(
    unit: Unit, source: Any, max_row_bytes: int, seed: int, make: MakeDocument = row_document
) -> Iterator[Row]:
    """Read row groups; rows are numbered through the file. Damage costs the rest of its row group."""
    for file in unit.files:
        try:
            with open_seekable(file, ahead=False) as stream:
                parquet = _open_parquet(stream)
                stop = parquet.num_row_groups if unit.stop is None else unit.stop
                number = sum(parquet.metadata.row_group(index).num_rows for index in range(unit.start))
                for index in range(unit.start, stop):
                    document = partial(make, source=source, file=file, max_row_bytes=max_row_bytes)
                    yield from _row_group(parquet, index, number, _fields(source), file, document)
                    number += parquet.metadata.row_group(index).num_rows
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            yield BadRow(file.label, None, "damaged_file", f"not readable as Parquet: {error}")


def _open_parquet(stream: IO[bytes]) -> pq.ParquetFile:
    metadata = pq.read_metadata(stream)
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    largest = max((sum(_compressed_bytes(group)) for group in groups), default=0)
    whole = largest <= _WHOLE_GROUP_BYTES
    # Without `pre_buffer=False`, Arrow holds all of a row group, whatever its size.
    return pq.ParquetFile(
        stream,
        metadata=metadata,
        pre_buffer=whole,
        buffer_size=0 if whole else _READ_BYTES,
        page_checksum_verification=True,
    )


def _compressed_bytes(group: pq.RowGroupMetaData) -> list[int]:
    return [group.column(position).total_compressed_size for position in range(group.num_columns)]


def _row_group(
    parquet: pq.ParquetFile, index: int, number: int, fields: Sequence[str], file: FileRef, make: _Make
) -> Iterator[Row]:
    group = parquet.metadata.row_group(index)
    columns = [name for field in fields if (name := _column(parquet.schema_arrow, field))]
    if bomb := _expansion(group, columns):
        yield BadRow(file.label, None, "compression_bomb", f"row group {index}: {bomb}")
        return
    rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * group.num_rows // max(1, group.total_byte_size)))
    try:
        batches = parquet.iter_batches(rows, row_groups=[index], columns=sorted(set(columns)), use_threads=False)
        for batch in batches:
            yield from _batch_documents(batch, number, file, make)
            number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        yield BadRow(file.label, None, "damaged_file", f"row group {index}, after row {number}: {error}")


def _fields(source: Any) -> list[str]:
    return [*source.required_fields, *source.metadata]


def _column(schema: pa.Schema, field: str) -> str | None:
    """The part of a table that holds a field: a column, or what is nested in it down to the first list."""
    if field in schema.names:
        return field
    head, *parts = field.split(".")
    if head not in schema.names:
        return None
    path, kind = head, schema.field(head).type
    for part in parts:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return path
        path, kind = f"{path}.{part}", kind.field(part).type
    return path


def _expansion(group: pq.RowGroupMetaData, columns: Sequence[str]) -> str | None:
    """Why a row group is not read, if one of its columns expands as no text does."""
    for position in range(group.num_columns):
        column = group.column(position)
        wanted = any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in columns)
        taken, given = column.total_compressed_size, column.total_uncompressed_size
        if wanted and given > EXPANSION_FREE_BYTES and given > MAX_EXPANSION * taken:
            return f"{taken:,} compressed bytes stand for {given:,}, more than {MAX_EXPANSION} times as many"
    return None


def read_arrow(unit: Unit, source: ArrowSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read batches of an Arrow IPC file, or a whole stream; rows are numbered from the first that the unit reads."""
    for file in unit.files:
        number = 0
        make = partial(row_document, source=source, file=file, max_row_bytes=max_row_bytes)
        try:
            with open_seekable(file) as stream:
                for batch in _arrow_batches(stream, unit.start, unit.stop, _fields(source)):
                    step = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)))
                    for start in range(0, batch.num_rows, step):
                        rows = batch.slice(start, step)
                        yield from _batch_documents(rows, number, file, make)
                        number += rows.num_rows
        except (pa.ArrowException, OSError) as error:
            if not is_damage(error):
                raise
            yield BadRow(file.label, None, "damaged_file", f"after row {number}: {error}")


def _arrow_batches(stream: IO[bytes], start: int, stop: int | None, fields: Sequence[str]) -> Iterator[pa.RecordBatch]:
    magic = stream.read(len(ARROW_MAGIC))
    stream.seek(0)
    if magic != ARROW_MAGIC:
        yield from (_selected(batch, fields) for batch in pa.ipc.open_stream(stream))
        return
    opened = pa.ipc.open_file(stream)
    for index in range(start, opened.num_record_batches if stop is None else stop):
        yield _selected(opened.get_batch(index), fields)


def _selected(batch: pa.RecordBatch, fields: Sequence[str]) -> pa.RecordBatch:
    names = {name for field in fields for name in (field, field.split(".")[0])}
    return batch.select([name for name in batch.schema.names if name in names])


def _batch_documents(batch: pa.RecordBatch, number: int, file: FileRef, make: _Make) -> Iterator[Row]:
    for index, row in enumerate(_batch_rows(batch), number + 1):
        try:
            if isinstance(row, UnusableRow):
                raise row
            yield make(row)
        except UnusableRow as error:
            yield BadRow(file.label, index, error.kind, error.detail)


def _batch_rows(batch: pa.RecordBatch) -> list[Mapping[str, Any] | UnusableRow]:
    """The rows of a batch; offsets and UTF-8 are checked first, for IPC files are taken as they are by Arrow."""
    try:
        batch.validate(full=True)
        return batch.to_pylist()
    except (pa.ArrowInvalid, UnicodeDecodeError):
        # One bad string spoils its whole batch; row by row, only its own row is lost.
        return [_single_row(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _single_row(batch: pa.RecordBatch) -> Mapping[str, Any] | UnusableRow:
    try:
        batch.validate(full=True)
        return batch.to_pylist()[0]
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        return UnusableRow(
            "invalid_utf8" if "UTF8" in str(error) or "utf-8" in str(error) else "damaged_row", str(error)
        )
