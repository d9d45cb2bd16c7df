"""Files of sources opened for reading, wherever they are: in small blocks, and again when a connection breaks.

``core.storage`` opens the project's own artifacts; what a source names may be a huge file behind a slow web server.
"""

import contextlib
import io
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import IO, Any, cast
from urllib.parse import urlsplit

from fsspec.core import url_to_fs

from rayllm.core import storage
from rayllm.core.log import get_logger
from rayllm.corpus.documents import FileRef

logger = get_logger(__name__)

#: Read ahead of a remote file, in bytes; s3fs alone would take 50 MiB for every open file.
BLOCK_BYTES = 4 << 20
#: How often a broken connection is made again without a byte gained, and the first pause, doubled each time.
RETRIES = 4
RETRY_PAUSE_S = 0.5
#: A server that sends nothing for so long has gone.
SILENCE_S = 120

#: What clients raise when the network fails without being a ``ConnectionError``; looked up only where loaded.
_NETWORK_ERRORS = {"aiohttp": "ClientError", "httpx": "TransportError", "botocore.exceptions": "HTTPClientError"}


def is_http(uri: str) -> bool:
    """Whether a web server has the file: then there may be no listing, no size, and no reading of parts."""
    return urlsplit(uri).scheme in ("http", "https")


def source_filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec file system of a source's URI, and the path in it.

    Raises:
        SetupError: If the scheme is unknown or its package is missing.
    """
    if not is_http(uri):
        return storage.filesystem(uri)
    with contextlib.suppress(ImportError):  # said by storage.filesystem below
        from aiohttp import ClientTimeout

        # By default aiohttp ends any download after five minutes, and asks for bytes compressed once more.
        timeout = ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        options: dict[str, Any] = {"client_kwargs": {"timeout": timeout}, "headers": {"Accept-Encoding": "identity"}}
        return url_to_fs(uri, use_listings_cache=False, **options)
    return storage.filesystem(uri)


def open_raw(file: FileRef, *, ahead: bool = True) -> IO[bytes]:
    """Open a file as stored, see ``open_seekable``; of a remote one, errors come when it is read.

    Raises:
        OSError: If a local file cannot be opened.
    """
    if storage.is_local(file.uri):
        return storage.local_path(file.uri).open("rb")
    return cast(IO[bytes], _RemoteFile(file, ahead=ahead))


@contextlib.contextmanager
def open_seekable(file: FileRef, *, ahead: bool = True) -> Iterator[IO[bytes]]:
    """Open a file for reading at any place; one that can only be streamed is copied to a temporary file first.

    Args:
        file: The file.
        ahead: Whether to read a remote file ahead; without, exactly what is asked for is fetched.
    """
    if file.seekable:
        with open_raw(file, ahead=ahead) as opened:
            yield opened
        return
    with tempfile.TemporaryFile(prefix="rayllm-") as copy:
        for chunk in read_raw(file, 0, BLOCK_BYTES):
            copy.write(chunk)
        copy.seek(0)
        yield copy


def read_raw(file: FileRef, start: int, chunk_bytes: int) -> Iterator[bytes]:
    """Read a file as stored, from a byte on.

    Raises:
        OSError: If it cannot be opened or read.
        SetupError: If its storage cannot be reached.
    """
    with open_raw(file) as opened:
        opened.seek(start)
        while chunk := opened.read(chunk_bytes):
            yield chunk


class _RemoteFile(io.RawIOBase):
    """A file of a remote storage that is opened again, at the same place, when its connection breaks."""

    def __init__(self, file: FileRef, *, ahead: bool) -> None:
        super().__init__()
        self._file, self._position = file, 0
        self._options: dict[str, Any] = {"block_size": BLOCK_BYTES if file.seekable else 0}
        self._options |= {} if ahead else {"cache_type": "none"}
        self._opened: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._file.seekable

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.bytes}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int = -1) -> bytes:
        with storage.reaching(self._file.uri):
            for attempt in itertools.count():
                try:
                    data = self._connected().read(size)
                except (FileNotFoundError, *network_errors()) as error:
                    self._disconnect()
                    if attempt == RETRIES or not _may_pass(error):
                        raise
                    logger.warning("%s, byte %s: %s; trying again", self._file.label, f"{self._position:,}", error)
                    time.sleep(RETRY_PAUSE_S * 2**attempt)
                else:
                    self._position += len(data)
                    return data
        raise AssertionError("unreachable")

    def _connected(self) -> IO[bytes]:
        """The open file, at the position."""
        if self._opened is None:
            fs, path = source_filesystem(self._file.uri)
            self._opened = cast(IO[bytes], fs.open(path, "rb", **self._options))
            left = 0 if self._file.seekable else self._position
            while left and (skipped := self._opened.read(min(left, BLOCK_BYTES))):
                left -= len(skipped)
        if self._file.seekable and self._opened.tell() != self._position:
            self._opened.seek(self._position)
        return self._opened

    def _disconnect(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def close(self) -> None:
        self._disconnect()
        super().close()


def network_errors() -> tuple[type[Exception], ...]:
    """What the clients that are loaded raise when a connection fails."""
    clients = [getattr(sys.modules[name], kind) for name, kind in _NETWORK_ERRORS.items() if name in sys.modules]
    return (ConnectionError, TimeoutError, *clients)


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed a little later; fsspec turns every failure over HTTP into a missing file."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
    status = getattr(cause, "status", None)
    return isinstance(cause, network_errors()) and (status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR)


def is_damage(error: Exception) -> bool:
    """Whether what a library raises that parses a file is about the file's bytes, and not about reaching them."""
    return (type(error) is OSError and error.errno is None) or not isinstance(error, (OSError, *network_errors()))
