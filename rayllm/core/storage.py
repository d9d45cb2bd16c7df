"""Files at URIs: local paths and anything fsspec opens, with atomic writes.

A URI without a scheme is a local path. Object stores need their fsspec package (``s3fs``, ``gcsfs``) and take their
credentials from the environment.
"""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.core import url_to_fs

from rayllm.core.errors import SetupError


def is_local(uri: str) -> bool:
    """Whether the URI names a file of this machine."""
    scheme = urlsplit(uri).scheme
    return scheme in ("", "file", "local") or len(scheme) == 1


def local_path(uri: str) -> Path:
    """The path behind a local URI.

    Raises:
        ValueError: If the URI is not local.
    """
    if not is_local(uri):
        raise ValueError(f"{uri} is not a local path")
    return Path(uri.removeprefix("file://").removeprefix("local://"))


def absolute(uri: str) -> str:
    """The same URI, independent of the working directory; remote URIs stay as they are."""
    return str(local_path(uri).expanduser().absolute()) if is_local(uri) else uri.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """Append path parts to a URI."""
    return "/".join([uri.rstrip("/") or "/", *(part.strip("/") for part in parts)]) if parts else uri


def filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a URI, and the path in it.

    Raises:
        SetupError: If the scheme is unknown or its package is missing.
    """
    # Listings are not cached: other processes of the same run write to the same directories.
    options = {} if is_local(uri) else {"use_listings_cache": False}
    try:
        return url_to_fs(uri, **options)
    except (ImportError, ValueError) as error:
        scheme = urlsplit(uri).scheme
        packages = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "http": "aiohttp"}
        raise SetupError(
            f"cannot open {scheme}: URIs",
            where=uri,
            why=str(error),
            fix=f"pip install {packages.get(scheme, 'the fsspec package of this scheme')}, or use another URI",
        ) from error


#: What clients of object stores raise without being an ``OSError``: module → class; looked up only where loaded.
_CLIENT_ERRORS = {
    "botocore.exceptions": "BotoCoreError",
    "google.auth.exceptions": "GoogleAuthError",
    "aiohttp": "ClientError",
}


@contextlib.contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Say what is wrong when a remote storage cannot be reached; local errors pass through.

    Raises:
        SetupError: If there are no credentials or the wrong ones, or nothing answers.
    """
    if is_local(uri):
        yield
        return
    clients = [getattr(sys.modules[module], name) for module, name in _CLIENT_ERRORS.items() if module in sys.modules]
    try:
        yield
    except (PermissionError, ConnectionError, TimeoutError, *clients) as error:
        raise SetupError(
            "the storage cannot be reached",
            where=uri,
            why=str(error) or type(error).__name__,
            fix="check the address, the network, and the credentials in the environment (for s3://, AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL)",
        ) from error


def open_file(uri: str, mode: str = "rb", **options: Any) -> IO[Any]:
    """Open a file at a URI; ``compression="infer"`` reads gz, zst, bz2 and xz by their ending."""
    with reaching(uri):
        return cast(IO[Any], fsspec.open(uri, mode, **options).open())  # pyright: ignore[reportAttributeAccessIssue]


def exists(uri: str) -> bool:
    """Whether a file or directory is there."""
    fs, path = filesystem(uri)
    with reaching(uri):
        return bool(fs.exists(path))


def size(uri: str) -> int:
    """Size of a file in bytes."""
    fs, path = filesystem(uri)
    with reaching(uri):
        return int(fs.size(path))


def list_files(uri: str) -> list[str]:
    """Paths of all files below a directory, relative to it, sorted; empty where the directory is missing."""
    fs, root = filesystem(uri)
    root = root.rstrip("/")
    with reaching(uri):
        found = [str(path) for path in fs.find(root)]
    return sorted(path[len(root) :].lstrip("/") for path in found)


def read_bytes(uri: str) -> bytes:
    """The bytes of a file."""
    fs, path = filesystem(uri)
    with reaching(uri):
        return bytes(fs.cat_file(path))


def read_text(uri: str) -> str:
    """The UTF-8 text of a file."""
    return read_bytes(uri).decode()


def make_dirs(uri: str) -> None:
    """Create a directory and its parents; nothing to do in object stores."""
    fs, path = filesystem(uri)
    with reaching(uri):
        fs.makedirs(path, exist_ok=True)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file so that a reader sees all of it or none: temporary name and rename, or one PUT."""
    if not is_local(uri):
        fs, path = filesystem(uri)
        with reaching(uri):
            fs.pipe_file(path, data)
        return
    with _replacing(local_path(uri)) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(local_path(uri).parent)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside a file, renamed over it when the block ends, removed when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_text(uri: str, text: str) -> None:
    """Write UTF-8 text, atomically."""
    write_bytes(uri, text.encode())


def sync_directory(path: Path) -> None:
    """Flush a local directory's entries, so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def directory_size(uri: str) -> int:
    """Size of all files below a directory together, in bytes."""
    fs, path = filesystem(uri)
    with reaching(uri):
        return sum(int(size) for size in fs.du(path, total=False).values())


def remove(uri: str) -> None:
    """Remove a file or a whole directory; nothing to do where it is missing."""
    if is_local(uri):
        path = local_path(uri)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        return
    fs, path = filesystem(uri)
    with reaching(uri):
        if fs.exists(path):
            fs.rm(path, recursive=True)


def upload(source: Path, uri: str) -> None:
    """Copy one local file to a URI, atomically."""
    if not is_local(uri):
        fs, path = filesystem(uri)
        with reaching(uri):
            fs.put_file(str(source), path)
        return
    with _replacing(local_path(uri)) as temporary:
        shutil.copyfile(source, temporary)
