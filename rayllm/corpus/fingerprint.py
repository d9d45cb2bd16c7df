"""What raw files look like, cheaply: enough to notice that they have changed."""

import hashlib
from collections.abc import Sequence

from rayllm.core import storage
from rayllm.core.errors import DataError
from rayllm.corpus.documents import FileRef
from rayllm.corpus.sources import InstalledProseSource, PythonStdlibSource, Source, SyntheticMathSource

#: Bytes looked at from each end of a local file.
LOOK_BYTES = 64 << 10
#: Sources without files of the user's own.
BUILT_IN = (InstalledProseSource, PythonStdlibSource, SyntheticMathSource)


def files_digest(sources: Sequence[Source], setting: str, unit_bytes: int) -> str:
    """A hash over the names, sizes and ends of the files behind a domain; empty where it has no files of its own.

    Args:
        sources: The sources of one domain.
        setting: Where they stand in the config, for errors.
        unit_bytes: As for ``Source.pieces``.

    Raises:
        DataError: If files are missing or cannot be read.
    """
    files: dict[str, FileRef] = {}
    for source in sources:
        if not isinstance(source, BUILT_IN):
            files |= {file.uri: file for piece in source.pieces(setting, unit_bytes) for file in piece["files"]}
    if not files:
        return ""
    digest = hashlib.sha256()
    for file in sorted(files.values(), key=lambda one: one.label):
        digest.update(f"{file.label}\0{file.bytes}\0".encode())
        if storage.is_local(file.uri):
            digest.update(_ends(file, setting))
    return digest.hexdigest()


def _ends(file: FileRef, setting: str) -> bytes:
    try:
        with storage.local_path(file.uri).open("rb") as opened:
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
