"""Bytes of a file as chunks and lines: decompressed by the file's ending, in bounded memory, damage named.

The decompressors of fsspec stop silently at the end of the first zstd frame and at a cut-off zstd file; here every
member is read and a missing end is an error.
"""

import bz2
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import zstandard

from rayllm.core import storage

CHUNK_BYTES = 1 << 20
COMPRESSED_CHUNK_BYTES = 1 << 16

#: What makes a decompressor, by the ending of the file's name.
_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".bz2": bz2.BZ2Decompressor,
    ".zst": lambda: zstandard.ZstdDecompressor().decompressobj(),
}


class DamagedFile(Exception):
    """The rest of a file cannot be read because its bytes are wrong or missing."""


def is_compressed(uri: str) -> bool:
    """Whether the file's ending says that it is compressed."""
    return uri.endswith(tuple(_DECOMPRESSORS))


def read_chunks(uri: str, start: int = 0) -> Iterator[bytes]:
    """Read a file from a byte on, decompressed if its name ends in ``.gz``, ``.bz2`` or ``.zst``.

    Raises:
        DamagedFile: After the last good bytes of a damaged or cut-off compressed file.
        OSError: If the file cannot be opened or read.
    """
    suffix = next((ending for ending in _DECOMPRESSORS if uri.endswith(ending)), "")
    with storage.open_file(uri) as file:
        if suffix:
            yield from _decompress(iter(lambda: file.read(COMPRESSED_CHUNK_BYTES), b""), _DECOMPRESSORS[suffix])
            return
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _decompress(chunks: Iterator[bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    member: Any = None
    for chunk in chunks:
        data = chunk
        while data:
            member = member or make()
            try:
                plain = member.decompress(data)
            except (zlib.error, zstandard.ZstdError, OSError, ValueError) as error:
                raise DamagedFile(str(error)) from error
            data = member.unused_data.lstrip(b"\0") if member.eof else b""  # members may be padded with zeros
            member = None if member.eof else member
            if plain:
                yield plain
    if member is not None:
        raise DamagedFile("the file ends in the middle of its compressed data")


def read_lines(uri: str, start: int = 0, stop: int | None = None, *, max_bytes: int) -> Iterator[bytes | None]:
    r"""Read the lines that begin in ``[start, stop)``, without their ``\n``.

    Ranges that tile a file yield each line exactly once. Only ``\n`` ends a line: JSONL may hold U+2028 and U+0085.

    Args:
        uri: The file; a range needs an uncompressed one.
        start: First byte of the range.
        stop: One after its last byte; None for the end of the file.
        max_bytes: Longer lines are skipped without being held, and yield None.

    Raises:
        DamagedFile: See ``read_chunks``.
        OSError: If the file cannot be read.
    """
    begin = start - 1 if start else 0
    lines = split_lines(read_chunks(uri, begin), max_bytes)
    position = begin
    for count, (line, length) in enumerate(lines):
        # A range that does not start at 0 begins one byte early: what it meets up to the first newline is the end of
        # the previous range's last line, or nothing if that byte is the newline itself.
        skipped = bool(start) and count == 0
        if not skipped:
            if stop is not None and position >= stop:
                return
            yield line
        position += length


def split_lines(chunks: Iterator[bytes], max_bytes: int) -> Iterator[tuple[bytes | None, int]]:
    r"""Split chunks at ``\n``: each line (None if longer than ``max_bytes``) with its length in the file."""
    pending: list[bytes] = []
    held = dropped = 0
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        for piece in pieces[:-1]:
            length = held + dropped + len(piece)
            yield (b"".join([*pending, piece]) if length <= max_bytes else None), length + 1
            pending, held, dropped = [], 0, 0
        if pieces[-1]:
            pending.append(pieces[-1])
            held += len(pieces[-1])
        if held > max_bytes:
            pending, held, dropped = [], 0, dropped + held
    if held or dropped:
        yield (b"".join(pending) if not dropped and held <= max_bytes else None), held + dropped
