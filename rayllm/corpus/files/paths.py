"""Paths of a config to files: environment variables, globs, directories, at any URI that fsspec opens."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from fsspec.asyn import sync

from rayllm.core import storage
from rayllm.core.errors import ConfigError, DataError
from rayllm.corpus.documents import FileRef
from rayllm.corpus.files.opening import is_http, source_filesystem

#: What file systems call a mark that changes with a file's contents, the best first.
_VERSIONS = ("blob_id", "ETag", "etag", "md5Hash", "Content-MD5", "Last-Modified", "LastModified")
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
        pattern: Local path or URI, with ``*``, ``?``, ``[]`` or ``**`` (no ``?`` in URLs, where it begins a query);
            relative to the working directory.
        setting: The setting that holds it, for errors.

    Raises:
        DataError: If nothing is there.
        SetupError: If its storage cannot be reached.
    """
    path = expand_variables(pattern, setting)
    fs, root = source_filesystem(storage.absolute(path))
    with storage.reaching(path), _named_errors(path, setting):
        if any(character in root for character in ("*[" if is_http(path) else "*?[")):
            found = fs.glob(root, detail=True)
            entries = [entry for entry in found.values() if _is_file(entry)]
        else:
            entries = [_single(fs, root, path, setting)]
        references = [_reference(fs, entry, path) for entry in entries]
    if not references:
        raise DataError("no file matches", where=f"{setting}: {path}", why=_looked_in(path), fix=_fix(path))
    return sorted(references, key=lambda file: file.uri)


def find_tree(root: str, setting: str) -> list[tuple[FileRef, str]]:
    """List all files below a directory, sorted, each with its path relative to it.

    Raises:
        DataError: If there is no such directory.
        SetupError: If its storage cannot be reached.
    """
    path = expand_variables(root, setting)
    fs, base = source_filesystem(storage.absolute(path))
    base = base.rstrip("/")
    with storage.reaching(path), _named_errors(path, setting):
        found = fs.find(base, detail=True)
    if not found:
        raise DataError(
            "no such directory, or it is empty", where=f"{setting}: {path}", why=_looked_in(path), fix=_fix(path)
        )
    names = sorted(name for name, entry in found.items() if _is_file(entry))
    return [(_reference(fs, found[name], path), name[len(base) :].lstrip("/")) for name in names]


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
        why = _looked_in(path) or str(error.__cause__ or "")
        raise DataError("no such file", where=where, why=why, fix=_fix(path)) from error
    except (OSError, ValueError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DataError("a source cannot be read", where=where, why=why, fix="make it readable") from error


def _looked_in(path: str) -> str:
    relative = storage.is_local(path) and not os.path.isabs(os.path.expanduser(path))
    return f"relative paths begin at the working directory, {os.getcwd()}" if relative else ""


def _fix(path: str) -> str:
    if is_http(path):
        return "correct the URL; a glob needs a server that lists its directories, so else name every file: path: [...]"
    return "correct the path, or create the files" if storage.is_local(path) else "correct the path"


def _is_file(entry: Mapping[str, Any]) -> bool:
    """Whether there is a file to read: listings call links "other", and the Hub's cache is made of them."""
    return entry["type"] == "file" or bool(entry.get("islink") and os.path.isfile(entry["name"]))


def _single(fs: Any, root: str, path: str, setting: str) -> dict[str, Any]:
    entry = fs.info(root)
    if entry["type"] != "file":
        raise DataError(
            "this is a directory", where=f"{setting}: {path}", fix=f"name its files, as in {path.rstrip('/')}/*"
        )
    return entry


def _reference(fs: Any, entry: dict[str, Any], configured: str) -> FileRef:
    name, size = entry["name"], int(entry.get("size") or 0)
    if storage.is_local(configured):
        relative = not os.path.isabs(configured) and not urlsplit(configured).scheme
        return FileRef(uri=name, label=os.path.relpath(name) if relative else name, bytes=size)
    uri = fs.unstrip_protocol(name)
    version = next((str(entry[key]) for key in _VERSIONS if entry.get(key)), "")
    if not is_http(uri):
        return FileRef(uri=uri, label=uri, bytes=size, version=version)
    return FileRef(
        uri=uri, label=without_secrets(uri), bytes=size, version=version, seekable=size > 0 and _has_ranges(fs, uri)
    )


def without_secrets(path: str) -> str:
    """A path or URI as it may be written into a corpus.

    URLs lose user, password and query, where signatures stand; URIs of object stores user and password. Elsewhere a
    ``?`` is part of a glob, and local paths stay as they are.
    """
    if storage.is_local(path):
        return path
    parts = urlsplit(path)
    netloc = parts.netloc.rpartition("@")[2]
    if is_http(path):
        return parts._replace(netloc=netloc, query="", fragment="").geturl()
    return path.replace(parts.netloc, netloc, 1) if parts.netloc else path


def _has_ranges(fs: Any, url: str) -> bool:
    """Whether a web server sends a part of a file when it is asked for one; many send all, whatever they declare."""

    async def ask() -> bool:
        session = await fs.set_session()
        async with session.get(url, headers={**fs.kwargs.get("headers", {}), "Range": "bytes=0-0"}) as reply:
            return reply.status == HTTPStatus.PARTIAL_CONTENT

    return bool(sync(fs.loop, ask))
