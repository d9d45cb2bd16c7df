"""How files become units of work: small ones together, large ones in pieces."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rayllm.core import storage
from rayllm.core.errors import DataError
from rayllm.corpus.documents import FileRef, Piece
from rayllm.corpus.files.opening import is_damage, open_raw
from rayllm.corpus.files.paths import find_files

#: What an Arrow IPC file begins with; a stream of the same format does not.
ARROW_MAGIC = b"ARROW1"
#: Remote files that are asked about at a time.
_ASKERS = 16

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


def group_files(files: Sequence[FileRef], unit_bytes: int) -> Iterator[Piece]:
    """Put consecutive files together until a group would be larger than ``unit_bytes``."""
    for start, stop in group_sizes([file.bytes for file in files], unit_bytes):
        yield whole_files(files[start:stop])


def group_packages(packages: Sequence[tuple[FileRef, ...]], unit_bytes: int) -> Iterator[Piece]:
    """Put whole packages together, so that what they copied from themselves is seen by one reader."""
    sizes = [sum(file.bytes for file in package) for package in packages]
    for start, stop in group_sizes(sizes, unit_bytes):
        yield whole_files([file for package in packages[start:stop] for file in package])


def whole_files(files: Sequence[FileRef]) -> Piece:
    """All of some files."""
    return Piece(files=tuple(files), bytes=sum(file.bytes for file in files))


def group_sizes(sizes: Sequence[int], unit_bytes: int) -> Iterator[tuple[int, int]]:
    """Ranges of consecutive things that are no larger together than ``unit_bytes``, or one alone."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > unit_bytes:
            yield start, index
            start, total = index, 0
        total += size
    if len(sizes) > start:
        yield start, len(sizes)


def cut_lines(file: FileRef, unit_bytes: int) -> Iterator[Piece]:
    """Byte ranges of an uncompressed file of lines."""
    for start in range(0, file.bytes, unit_bytes):
        stop = min(start + unit_bytes, file.bytes)
        yield Piece(files=(file,), start=start, stop=stop, bytes=stop - start)


def cut_blocks(file: FileRef, sizes: Sequence[int], unit_bytes: int) -> Iterator[Piece]:
    """Ranges of a file's row groups or batches, given the size of each."""
    for start, stop in group_sizes(sizes, unit_bytes):
        yield Piece(files=(file,), start=start, stop=stop, bytes=sum(sizes[start:stop]))


def find_all(paths: Sequence[str], setting: str) -> list[FileRef]:
    """The files of several paths or globs, in their order, each once; see ``paths.find_files``."""
    remote = any(not storage.is_local(path) for path in paths)
    lists = ask_each(paths, lambda path: find_files(path, setting), remote=remote)
    return list({file.uri: file for files in lists for file in files}.values())


def ask_each(things: Sequence[Asked], ask: Callable[[Asked], Answer], *, remote: bool) -> Iterator[Answer]:
    """The answers for several things, in their order; several at a time where each takes a round trip."""
    if not remote or len(things) < 2:
        yield from map(ask, things)
        return
    with ThreadPoolExecutor(_ASKERS) as pool:
        yield from pool.map(ask, things)


def row_group_bytes(file: FileRef, fields: Sequence[str], setting: str) -> list[int] | None:
    """Uncompressed bytes of each row group; None if the file cannot be cut, or is not readable as Parquet.

    Raises:
        DataError: If it has no such column: then no row could be used.
    """
    if not file.seekable:
        return None
    try:
        with open_raw(file) as stream:
            parquet = pq.ParquetFile(stream)
            names = parquet.schema_arrow.names
            metadata = parquet.metadata
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        return None
    _check_columns(names, fields, file, setting)
    return [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]


def batch_bytes(file: FileRef, fields: Sequence[str], setting: str) -> list[int] | None:
    """About how many bytes each batch of an Arrow IPC file has; None for a stream, or if the file is not readable.

    Raises:
        DataError: If it has no such column: then no row could be used.
    """
    if not file.seekable:
        return None
    try:
        with open_raw(file) as stream:
            if stream.read(len(ARROW_MAGIC)) != ARROW_MAGIC:
                stream.seek(0)
                names, count = pa.ipc.open_stream(stream).schema.names, 0
            else:
                stream.seek(0)
                opened = pa.ipc.open_file(stream)
                names, count = opened.schema.names, opened.num_record_batches
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        return None
    _check_columns(names, fields, file, setting)
    return [file.bytes // count] * count if count else None


def _check_columns(names: Sequence[str], fields: Sequence[str], file: FileRef, setting: str) -> None:
    missing = [name for name in fields if name not in names and name.split(".")[0] not in names]
    if missing:
        raise DataError(
            f"no column {missing[0]!r}",
            where=f"{setting}: {file.label}",
            why=f"its columns are {', '.join(names)}",
            fix="set `text`, `template` or `id` to columns that exist",
        )
