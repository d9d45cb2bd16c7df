"""The stage runner: skip what exists, run what is missing, publish the result in one move.

In: a stage (its verb, its config and its parents' artifacts) and a root URI. Out: one artifact,
``<root>/<verb>-<hash>/``. The hash covers the stage's version, the parts of its config that shape its result, and the
parents' hashes, so that the same work is never done twice and other work never mistaken for it.
"""

import contextlib
import datetime
import errno
import fcntl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayllm.core import storage
from rayllm.core.artifact import (
    MANIFEST,
    Artifact,
    Manifest,
    content_hash,
    of_checkpoints,
    read_artifact,
    record_files,
    versions,
)
from rayllm.core.config import ConfigModel
from rayllm.core.errors import SetupError
from rayllm.core.log import get_logger

logger = get_logger(__name__)

#: Beside what was there before a forced start: says that it has been put there.
BEGUN = "BEGUN"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Work:
    """What a stage gets to do its work: its config, its parents' artifacts, and the directory to fill."""

    config: Any
    inputs: Mapping[str, Artifact]
    directory: str
    hash: str

    def path(self, *parts: str) -> str:
        """The URI of a file that the stage writes."""
        return storage.join(self.directory, *parts)

    @property
    def scratch(self) -> str:
        """URI of a directory beside the artifact for work that a later start may take up again.

        It goes when the artifact is published: until then nothing in it is lost, whenever the stage is killed.
        """
        return _scratch(self.directory)


def _never(_: Manifest) -> bool:
    return False


@dataclass(frozen=True)
class Task:
    """One stage bound to its config and parents.

    Attributes:
        verb: Name of the stage.
        run: Fills ``work.directory`` and returns the counts for the manifest.
        config: All that the stage reads from the run file.
        inputs: Parent artifacts by verb.
        version: Raised when the meaning or format of the output changes.
        in_place: Write straight into the final directory; the manifest alone publishes. For stages whose half-done
            work must keep its name (training: its checkpoints), and for object stores, which cannot rename.
        seen: What the stage found outside, such as a digest of its source files.
        goes_on: Whether a finished artifact, by its manifest, is to be taken up again: it was as much as an earlier
            limit allowed. Only for stages in place.
    """

    verb: str
    run: Callable[[Work], dict[str, Any]]
    config: ConfigModel
    inputs: Mapping[str, Artifact] = field(default_factory=dict)
    version: int = 1
    in_place: bool = False
    seen: Mapping[str, Any] = field(default_factory=dict)
    goes_on: Callable[[Manifest], bool] = _never

    @property
    def hash(self) -> str:
        """Content hash of all that shapes the result."""
        return content_hash(
            {
                "stage": self.verb,
                "version": self.version,
                "config": self.config.identity(),
                "parents": {verb: artifact.hash for verb, artifact in self.inputs.items()},
                "seen": dict(self.seen),
            }
        )

    def uri(self, root: str) -> str:
        """Where its artifact is, or will be."""
        return storage.join(root, f"{self.verb}-{self.hash[:12]}")


def run_task(task: Task, root: str, *, force: bool = False) -> tuple[Artifact, bool]:
    """Return the stage's artifact, making it if it is not there.

    Args:
        task: What to run.
        root: URI of the directory that holds the artifact.
        force: Make it again even if it exists, or go on with what an earlier forced start has begun.

    Returns:
        The artifact, and whether it was found finished.

    Raises:
        ArtifactDamaged: If it exists but its files differ from its manifest.
        SetupError: If the root cannot be written, or another process is making the same artifact.
    """
    uri = task.uri(root)
    if not force and is_made(task, root):
        return _found(uri), True
    check_writable(root)
    in_place = task.in_place or not storage.is_local(root)
    partial = uri if in_place else storage.join(root, f".{task.verb}-{task.hash[:12]}.partial")
    with _lock(root, f"{task.verb}-{task.hash[:12]}"):
        if not force and is_made(task, root):  # since, by the process that had the lock
            return _found(uri), True
        if task.in_place and storage.exists(storage.join(uri, MANIFEST)):
            _clean_up(uri)  # with it there, what --force had begun is done
        if task.in_place and force:
            _begin_anew(uri)
        elif not task.in_place:
            storage.remove(partial)  # what a killed attempt left must not be published with the files of this one
            storage.remove(_scratch(partial))
        storage.remove(storage.join(partial, MANIFEST))  # of what goes on: half done, it is no artifact
        storage.make_dirs(partial)
        with full_disk_named(root):
            manifest = _fill(task, partial)
        if not in_place:
            storage.remove(uri)
            storage.local_path(partial).rename(storage.local_path(uri))
            storage.sync_directory(storage.local_path(root))
        storage.remove(_scratch(partial))
        storage.remove(_aside(uri))
    return Artifact(uri, manifest), False


def is_made(task: Task, root: str) -> bool:
    """Whether the stage's artifact is there already, and is all that it is asked for."""
    uri = task.uri(root)
    return storage.exists(storage.join(uri, MANIFEST)) and not task.goes_on(read_artifact(uri).manifest)


def _found(uri: str) -> Artifact:
    artifact = read_artifact(uri)
    artifact.verify(deep=False)
    _clean_up(uri)
    return artifact


def _clean_up(uri: str) -> None:
    """Remove what lies beside a finished artifact where the process was killed just after it had published."""
    storage.remove(_scratch(uri))
    storage.remove(_aside(uri))


def _begin_anew(uri: str) -> None:
    """Make room for a forced stage that fills its final directory, unless an earlier start of it has done so.

    Until the new artifact is whole the old one lies aside; in an object store, which cannot rename, it is removed.
    """
    aside = _aside(uri)
    marker = storage.join(aside, BEGUN)
    if storage.exists(marker):
        logger.info("going on with what --force has begun; what was there before lies in %s until the end", aside)
        return
    if storage.is_local(uri):
        old = storage.local_path(uri)
        storage.make_dirs(aside)
        if old.exists():
            old.rename(storage.local_path(storage.join(aside, old.name)))
    else:
        storage.remove(uri)
    storage.remove(_scratch(uri))
    storage.write_text(marker, "")


def _aside(directory: str) -> str:
    parent, name = directory.rstrip("/").rsplit("/", 1)
    return storage.join(parent, f".{name}.before")


def _scratch(directory: str) -> str:
    parent, name = directory.rstrip("/").rsplit("/", 1)
    return storage.join(parent, f".{name.lstrip('.')}.scratch")


def _fill(task: Task, directory: str) -> Manifest:
    """Do the work, then write the manifest: last, because it is what makes an artifact of a directory."""
    start = time.monotonic()
    counts = task.run(Work(task.config, task.inputs, directory, task.hash))
    manifest = _manifest(task, directory, counts, time.monotonic() - start)
    storage.write_text(storage.join(directory, MANIFEST), manifest.model_dump_json(indent=1))
    return manifest


@contextlib.contextmanager
def full_disk_named(root: str) -> Iterator[None]:
    """Say so when there is no room left below ``root``; other errors pass through.

    Raises:
        SetupError: In place of the ``OSError``.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise SetupError(
            "no room left for artifacts",
            where=error.filename or root,
            why=str(error.strerror),
            fix="free space, raise the quota, or set `storage=` to another disk; finished work is kept",
        ) from error


def _manifest(task: Task, directory: str, counts: dict[str, Any], wall_s: float) -> Manifest:
    paths = [path for path in storage.list_files(directory) if path != MANIFEST and not of_checkpoints(path)]
    return Manifest(
        stage=task.verb,
        hash=task.hash,
        config=task.config.model_dump(mode="json"),
        parents={verb: artifact.hash for verb, artifact in task.inputs.items()},
        files=record_files(directory, paths),
        counts=counts,
        versions=versions(),
        wall_s=round(wall_s, 3),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def check_writable(root: str) -> None:
    """Try to write below a URI.

    Raises:
        SetupError: If that fails.
    """
    probe = storage.join(root, ".write-probe")
    try:
        storage.write_bytes(probe, b"ok")
        storage.remove(probe)
    except (OSError, PermissionError) as error:
        raise SetupError(
            "the storage cannot be written",
            where=root,
            why=str(error),
            fix="set `storage=` to a directory or URI that you may write to",
        ) from error


@contextlib.contextmanager
def _lock(root: str, name: str) -> Iterator[None]:
    """Keep a second local process from making the same artifact at once; object stores have no locks."""
    if not storage.is_local(root):
        yield
        return
    path = Path(storage.local_path(root)) / f".{name}.lock"
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SetupError(
                f"another process is making {name}", where=str(path), fix="wait for it, or stop it, then run again"
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
