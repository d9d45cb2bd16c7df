"""Remote files on the local disk, downloaded once for each node.

A file is kept under its SHA-256, so that two runs over the same data share it and changed data never meets a stale
copy. Several processes may ask at once: one downloads, the others wait for it. Nothing is ever removed; the directory
can be deleted whenever no run uses it.
"""

import fcntl
import os
import shutil
from pathlib import Path

from rayllm.core import storage
from rayllm.core.artifact import sha256_file
from rayllm.core.errors import ArtifactDamaged, SetupError
from rayllm.core.log import get_logger

logger = get_logger(__name__)

CACHE_VARIABLE = "RAYLLM_CACHE"


def default_cache_dir() -> Path:
    """``$RAYLLM_CACHE``, or ``rayllm`` in the user's cache directory."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rayllm"


def cached(uri: str, sha256: str, cache_dir: Path | None = None) -> Path:
    """The local path of a file: the file itself where it is local, else its verified copy in the cache.

    Args:
        uri: The file.
        sha256: What it must hash to; checked when it is downloaded.
        cache_dir: Where copies are kept; ``default_cache_dir()`` by default.

    Raises:
        ArtifactDamaged: If the remote file is missing or has another hash.
        SetupError: If the disk has no room for it.
    """
    if storage.is_local(uri):
        return storage.local_path(uri)
    directory = (cache_dir or default_cache_dir()) / sha256[:2]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / sha256
    if not path.exists():
        with (directory / f"{sha256}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _download(uri, sha256, path)
    return path


def _download(uri: str, sha256: str, path: Path) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    fs, remote = storage.filesystem(uri)
    try:
        _check_room(int(fs.size(remote)), path.parent)
        logger.info("downloading %s", uri)
        fs.get_file(remote, str(temporary))
        if (found := sha256_file(str(temporary))) != sha256:
            raise ArtifactDamaged(
                "a token shard has other content than its index says",
                where=uri,
                why=f"its SHA-256 is {found}; expected {sha256}",
                fix="restore the file, or pack the data again with --force",
            )
        temporary.replace(path)
    except FileNotFoundError as error:
        raise ArtifactDamaged("a token shard is missing", where=uri, fix="pack the data again") from error
    finally:
        temporary.unlink(missing_ok=True)


def _check_room(needed: int, directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise SetupError(
            "the cache has no room for a token shard",
            where=str(directory),
            why=f"{needed:,} bytes are needed, {free:,} are free",
            fix=f"free space, or point {CACHE_VARIABLE} at a larger disk",
        )
