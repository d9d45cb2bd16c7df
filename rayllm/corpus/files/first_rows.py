"""The first rows of a file of rows, cheaply: enough to see what is in it."""

import itertools
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from rayllm.corpus.documents import FileRef
from rayllm.corpus.files.lines import DamagedFile, read_lines
from rayllm.corpus.files.opening import is_damage, open_seekable

_MAX_LINE_BYTES = 16 << 20


def is_parquet(file: FileRef) -> bool:
    """Whether a file's name says that it is Parquet; rows are in lines of JSON otherwise."""
    return urlsplit(file.uri).path.endswith((".parquet", ".pq"))


def first_rows(file: FileRef, count: int) -> list[Mapping[str, Any]]:
    """Up to ``count`` rows; what cannot be read is left to those who read all of the file.

    Raises:
        OSError: If the file cannot be opened.
    """
    if not is_parquet(file):
        return _first_lines(file, count)
    try:
        with open_seekable(file, ahead=False) as stream:
            batch = next(pq.ParquetFile(stream, pre_buffer=False).iter_batches(count), None)
            return [] if batch is None else batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        return []


def _first_lines(file: FileRef, count: int) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    try:
        for line in itertools.islice(read_lines(file, max_bytes=_MAX_LINE_BYTES), 2 * count):
            try:
                value = json.loads(line) if line else None
            except (ValueError, RecursionError):
                continue  # counted and listed by the reader
            if isinstance(value, Mapping):
                rows.append(value)
    except DamagedFile:
        return rows[:count]
    return rows[:count]
