"""Paths of a config to files: environment variables, globs, directories, at any URI that fsspec opens."""

import contextlib
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any
from urllib.parse import urlsplit

from rayllm.core import storage
from rayllm.core.errors import ConfigError, DataError
from rayllm.corpus.documents import FileRef

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def expand_variables(path: str, setting: str) -> str:
    """Put environment variables into a path: ``${VAR}``, or ``${VAR:-default}``.

    Raises:
        ConfigError: If a variable is not set and has no default.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            raise ConfigError(
                f"the environment variable {match[1]} is not set",
                where=f"{setting}: {path}",
                fix=f"export {match[1]}=..., or write ${{{match[1]}:-default}}",
            )
        return found

    return _VARIABLE.sub(value, path)


def find_files(pattern: str, setting: str) -> list[FileRef]:
    """List the files of a path or glob, sorted by name.

    Args:
        pattern: Local path or URI, with ``*``, ``?``, ``[]`` or ``**``; relative to the working directory.
        setting: The setting that holds it, for errors.

    Raises:
        DataError: If nothing is there.
    """
    path = expand_variables(pattern, setting)
    fs, root = storage.filesystem(storage.absolute(path))
    with storage.reaching(path), _named_errors(path, setting):
        if any(character in root for character in "*?["):
            found = fs.glob(root, detail=True)
            entries = [entry for entry in found.values() if entry["type"] == "file"]
        else:
            entries = [_single(fs, root, path, setting)]
    if not entries:
        raise DataError(
            "no file matches",
            where=f"{setting}: {path}",
            why=_looked_in(path),
            fix="correct the path, or create the files",
        )
    return sorted((_reference(fs, entry, path) for entry in entries), key=lambda file: file.uri)


def find_tree(root: str, setting: str) -> list[tuple[FileRef, str]]:
    """List all files below a directory, sorted, each with its path relative to it.

    Raises:
        DataError: If there is no such directory.
    """
    path = expand_variables(root, setting)
    fs, base = storage.filesystem(storage.absolute(path))
    base = base.rstrip("/")
    with storage.reaching(path), _named_errors(path, setting):
        found = fs.find(base, detail=True)
    if not found:
        raise DataError(
            "no such directory, or it is empty",
            where=f"{setting}: {path}",
            why=_looked_in(path),
            fix="correct the path",
        )
    return [(_reference(fs, found[name], path), name[len(base) :].lstrip("/")) for name in sorted(found)]


def excluded(relative: str, patterns: list[str]) -> bool:
    """Whether a path matches a pattern: one with ``/`` the whole relative path, another any single part of it."""
    parts = relative.split("/")
    return any(
        fnmatch(relative, pattern) if "/" in pattern else any(fnmatch(part, pattern) for part in parts)
        for pattern in patterns
    )


@contextlib.contextmanager
def _named_errors(path: str, setting: str) -> Iterator[None]:
    """Name the setting behind what the file system says."""
    where = f"{setting}: {path}"
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError("no such file", where=where, why=_looked_in(path), fix="correct the path") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError("a source cannot be read", where=where, why=why, fix="make it readable") from error


def _looked_in(path: str) -> str:
    relative = storage.is_local(path) and not os.path.isabs(os.path.expanduser(path))
    return f"relative paths begin at the working directory, {os.getcwd()}" if relative else ""


def _single(fs: Any, root: str, path: str, setting: str) -> dict[str, Any]:
    entry = fs.info(root)
    if entry["type"] != "file":
        raise DataError(
            "this is a directory", where=f"{setting}: {path}", fix=f"name its files, as in {path.rstrip('/')}/*"
        )
    return entry


def _reference(fs: Any, entry: dict[str, Any], configured: str) -> FileRef:
    name = entry["name"]
    if not storage.is_local(configured):
        uri = fs.unstrip_protocol(name)
        return FileRef(uri=uri, label=uri, bytes=int(entry.get("size") or 0))
    relative = not os.path.isabs(configured) and not urlsplit(configured).scheme
    return FileRef(uri=name, label=os.path.relpath(name) if relative else name, bytes=int(entry.get("size") or 0))
