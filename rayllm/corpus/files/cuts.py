"""How files become units of work: small ones together, large ones in pieces."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from rayllm.core import storage
from rayllm.core.errors import DataError
from rayllm.corpus.documents import FileRef
from rayllm.corpus.files.paths import find_files


def group_files(files: Sequence[FileRef], unit_bytes: int) -> Iterator[tuple[FileRef, ...]]:
    """Put consecutive files together until a group would be larger than ``unit_bytes``."""
    for start, stop in group_sizes([file.bytes for file in files], unit_bytes):
        yield tuple(files[start:stop])


def group_packages(packages: Sequence[tuple[FileRef, ...]], unit_bytes: int) -> Iterator[tuple[FileRef, ...]]:
    """Put whole packages together, so that what they copied from themselves is seen by one reader."""
    sizes = [sum(file.bytes for file in package) for package in packages]
    for start, stop in group_sizes(sizes, unit_bytes):
        yield tuple(file for package in packages[start:stop] for file in package)


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


def find_all(paths: Sequence[str], setting: str) -> list[FileRef]:
    """The files of several paths or globs, in their order, each once; see ``paths.find_files``."""
    found = {file.uri: file for path in paths for file in find_files(path, setting)}
    return list(found.values())


def row_group_bytes(file: FileRef, fields: Sequence[str], setting: str) -> list[int] | None:
    """Uncompressed bytes of each row group; None if the file is not readable as Parquet.

    Raises:
        DataError: If it has no such column: then no row could be used.
    """
    try:
        with storage.open_file(file.uri) as stream:
            parquet = pq.ParquetFile(stream)
            names = parquet.schema_arrow.names
            metadata = parquet.metadata
    except pa.ArrowInvalid:
        return None
    missing = [name for name in fields if name.split(".")[0] not in names]
    if missing:
        raise DataError(
            f"no column {missing[0]!r}",
            where=f"{setting}: {file.label}",
            why=f"its columns are {', '.join(names)}",
            fix="set `text`, `template` or `id` to columns that exist",
        )
    return [metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups)]
