"""Bytes of a file as chunks and lines: decompressed by the file's ending, in bounded memory, damage named.

The decompressors of fsspec stop silently at the end of the first zstd frame and at a cut-off zstd file; here every
member is read and a missing end is an error. Their output is bounded too: 64 KiB of a zstd file may hold 2 GiB.
"""

import bz2
import itertools
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol
from urllib.parse import urlsplit

import zstandard

from rayllm.corpus.documents import FileRef
from rayllm.corpus.files.opening import is_http, read_raw

CHUNK_BYTES = 1 << 20
COMPRESSED_CHUNK_BYTES = 1 << 16

#: A file that becomes so many times as large, and larger than this, is no text: the rest of it is not read.
MAX_EXPANSION = 200
EXPANSION_FREE_BYTES = 64 << 20

#: zstd gives out all it can at once, 128 KiB for every 4 bytes at the most: so it gets little at a time.
_ZSTD_STEP_BYTES = 512


class DamagedFile(Exception):
    """The rest of a file cannot be read because its bytes are wrong or missing.

    Args:
        detail: What is wrong, for a person.
        kind: Short name that counts are kept by.
    """

    def __init__(self, detail: str, kind: str = "damaged_file") -> None:
        self.kind = kind
        super().__init__(detail)


class _Member(Protocol):
    """The decompressor of one member of a file."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decompress in pieces of bounded size."""
        ...

    @property
    def rest(self) -> bytes | None:
        """What followed the member's end; None before it."""
        ...


class _Gzip:
    def __init__(self) -> None:
        self.inner = zlib.decompressobj(wbits=31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            plain = self.inner.decompress(data, CHUNK_BYTES)
            yield plain
            data = self.inner.unconsumed_tail
            if self.inner.eof or (not data and len(plain) < CHUNK_BYTES):
                return

    @property
    def rest(self) -> bytes | None:
        return self.inner.unused_data if self.inner.eof else None


class _Bzip2:
    def __init__(self) -> None:
        self.inner = bz2.BZ2Decompressor()

    def feed(self, data: bytes) -> Iterator[bytes]:
        yield self.inner.decompress(data, CHUNK_BYTES)
        while not (self.inner.eof or self.inner.needs_input):
            yield self.inner.decompress(b"", CHUNK_BYTES)

    @property
    def rest(self) -> bytes | None:
        return self.inner.unused_data if self.inner.eof else None


class _Zstd:
    def __init__(self) -> None:
        self.inner = zstandard.ZstdDecompressor().decompressobj()
        self.rest: bytes | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), _ZSTD_STEP_BYTES):
            stop = start + _ZSTD_STEP_BYTES
            yield self.inner.decompress(data[start:stop])
            if self.inner.eof:
                self.rest = self.inner.unused_data + data[stop:]
                return


#: What makes a decompressor, by the ending of the file's name.
_MEMBERS: dict[str, Callable[[], _Member]] = {".gz": _Gzip, ".bz2": _Bzip2, ".zst": _Zstd}


def compression_of(uri: str) -> str:
    """The ending that says how a file is compressed; empty if it is not."""
    name = urlsplit(uri).path if is_http(uri) else uri
    return next((ending for ending in _MEMBERS if name.endswith(ending)), "")


def read_chunks(file: FileRef, start: int = 0) -> Iterator[bytes]:
    """Read a file from a byte on, decompressed if its name ends in ``.gz``, ``.bz2`` or ``.zst``.

    Raises:
        DamagedFile: After the last good bytes of a damaged or cut-off compressed file, or of one that expands too much.
        OSError: If the file cannot be opened or read.
    """
    if suffix := compression_of(file.uri):
        yield from _decompress(read_raw(file, 0, COMPRESSED_CHUNK_BYTES), _MEMBERS[suffix])
    else:
        yield from read_raw(file, start, CHUNK_BYTES)


def _decompress(chunks: Iterator[bytes], make: Callable[[], _Member]) -> Iterator[bytes]:
    member: _Member | None = None
    taken = given = 0
    for chunk in chunks:
        taken += len(chunk)
        data = chunk
        while data:
            member = member or make()
            for plain in _named_damage(member.feed(data)):
                given += len(plain)
                _check_expansion(taken, given)
                yield plain
            data = (member.rest or b"").lstrip(b"\0")  # members may be padded with zeros
            member = member if member.rest is None else None
    if member is not None:
        raise DamagedFile("the file ends in the middle of its compressed data")


def _named_damage(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except (zlib.error, zstandard.ZstdError, OSError, ValueError) as error:
        raise DamagedFile(str(error)) from error


def _check_expansion(taken: int, given: int) -> None:
    if given > EXPANSION_FREE_BYTES and given > MAX_EXPANSION * taken:
        raise DamagedFile(
            f"{taken:,} compressed bytes became {given:,}, more than {MAX_EXPANSION} times as many; the rest is not "
            "read (if the file is really meant, store it uncompressed)",
            kind="compression_bomb",
        )


def read_lines(file: FileRef, start: int = 0, stop: int | None = None, *, max_bytes: int) -> Iterator[bytes | None]:
    r"""Read the lines that begin in ``[start, stop)``, without their ``\n``.

    Ranges that tile a file yield each line exactly once. Only ``\n`` ends a line: JSONL may hold U+2028 and U+0085.

    Args:
        file: The file; a range needs an uncompressed one.
        start: First byte of the range.
        stop: One after its last byte; None for the end of the file.
        max_bytes: Longer lines are skipped without being held, and yield None.

    Raises:
        DamagedFile: See ``read_chunks``.
        OSError: If the file cannot be read.
    """
    chunks, position = read_chunks(file, max(0, start - 1)), 0
    if start:  # one byte early: the line of the range before may end with just that byte
        chunks, position = _skip_line(chunks, start - 1, stop)
    for line, length in split_lines(chunks, max_bytes) if stop is None or position < stop else ():
        yield line
        position += length
        if stop is not None and position >= stop:
            return


def _skip_line(chunks: Iterator[bytes], position: int, stop: int | None) -> tuple[Iterator[bytes], int]:
    """The chunks from the next line on, and where it begins; without looking for it beyond ``stop``."""
    for chunk in chunks:
        end = chunk.find(b"\n") + 1
        if end:
            return itertools.chain([chunk[end:]], chunks), position + end
        position += len(chunk)
        if stop is not None and position >= stop:
            break
    return iter(()), position


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
