"""A remote store as pyarrow sees it, which is how Ray Train wants it."""

from typing import Any

from rayllm.core import storage


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """The file system behind a remote URI, and the path in it."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    fs, path = storage.filesystem(uri)
    return PyFileSystem(FSSpecHandler(fs)), path
