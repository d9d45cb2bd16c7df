"""What raw files look like, cheaply: enough to notice that they have changed."""

import hashlib
from collections.abc import Sequence

from rayllm.core import storage
from rayllm.core.errors import DataError
from rayllm.corpus.documents import FileRef
from rayllm.corpus.sources import Source

#: Bytes looked at from each end of a local file.
LOOK_BYTES = 64 << 10


def files_digest(sources: Sequence[Source], setting: str, *, whole: bool = False) -> str:
    """A hash over the names, sizes and ends of the files behind a domain; empty where it has no files of its own.

    Of a remote file, what its storage tells of the contents (an ETag, a hash, a time) stands for its ends.

    Args:
        sources: The sources of one domain.
        setting: Where they stand in the config, for errors.
        whole: Whether all of every local file is read, not its ends alone.

    Raises:
        DataError: If files are missing or cannot be read.
    """
    files = {file.uri: file for source in sources for file in source.files(setting)}
    if not files:
        return ""
    digest = hashlib.sha256()
    for file in sorted(files.values(), key=lambda one: one.label):
        digest.update(f"{file.label}\0{file.bytes}\0{file.version}\0".encode())
        if storage.is_local(file.uri):
            digest.update(_contents(file, setting, whole))
    return digest.hexdigest()


def _contents(file: FileRef, setting: str, whole: bool) -> bytes:
    try:
        with storage.local_path(file.uri).open("rb") as opened:
            if whole:
                return hashlib.file_digest(opened, "sha256").digest()
            head = opened.read(LOOK_BYTES)
            opened.seek(max(LOOK_BYTES, file.bytes - LOOK_BYTES))
            return head + opened.read(LOOK_BYTES)
    except OSError as error:
        raise DataError(
            "a source cannot be read",
            where=f"{setting}: {file.label}",
            why=error.strerror or str(error),
            fix="make it readable, or take it out of the source",
        ) from error
