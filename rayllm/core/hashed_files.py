"""Files that are hashed while they are written, so that nothing is read a second time for its SHA-256."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from rayllm.core.artifact import CHUNK_BYTES, FileRecord


class HashedFiles:
    """Writes files below a directory and keeps the record of each.

    Args:
        directory: Local; subdirectories are made as needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._records: dict[str, FileRecord] = {}

    @property
    def records(self) -> list[FileRecord]:
        """The files written so far, by path."""
        return [self._records[path] for path in sorted(self._records)]

    def write(self, path: str, parts: Iterable[bytes | memoryview]) -> None:
        """Write one file from parts that follow each other.

        Hashing and writing are done in chunks of some megabytes outside the interpreter's lock: other threads go on.

        Args:
            path: Relative to the directory.
            parts: One-dimensional buffers of bytes.

        Raises:
            OSError: If the file cannot be written.
        """
        target = self.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with target.open("wb") as file:
            for part in parts:
                view = memoryview(part)
                for start in range(0, len(view), CHUNK_BYTES):
                    chunk = view[start : start + CHUNK_BYTES]
                    digest.update(chunk)
                    file.write(chunk)
                size += len(view)
        self._records[path] = FileRecord(path=path, bytes=size, sha256=digest.hexdigest())
