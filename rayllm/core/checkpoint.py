"""Checkpoints as directories: their names, their validity, and which one to take.

A checkpoint is published when every file that its ranks wrote is there. Each rank lists its files with sizes and
SHA-256 in ``rank-00000.manifest.json``; rank 0 writes ``COMMIT.json`` last, with the hash of every rank's manifest.
``valid`` = COMMIT parses, no rank is missing, every listed file has its listed size (deep: its SHA-256 too). What the
files mean is told in ``train.checkpoint``; sampling and export need only this module.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rayllm.core import storage
from rayllm.core.artifact import FileRecord, check_files, record_files
from rayllm.core.errors import ArtifactDamaged, ConfigError, SetupError
from rayllm.core.faults import fault
from rayllm.core.log import get_logger

COMMIT = "COMMIT.json"
BEST = "best.json"
PINNED = "PINNED"
#: In a checkpoint that was to be resumed from and is not whole: why.
DAMAGED = "DAMAGED"
DIRECTORY = "checkpoints"
#: Below it lies what a run needs to go on and nobody else: each rank's slices and random generators.
STATE = "state"

logger = get_logger(__name__)
_NAME = re.compile(r"^step-(\d{8,})-a(\d+)$")


class Commit(BaseModel):
    """The last file of a checkpoint: who wrote it, and the hash of what each rank lists."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    step: int
    attempt: int
    world_size: int
    manifests: list[FileRecord]


class Best(BaseModel):
    """Which checkpoint of a run is the best so far, by which metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    metric: str
    value: float
    mode: Literal["min", "max"] = "min"


@dataclass(frozen=True, order=True)
class CheckpointRef:
    """A checkpoint's place in the order of a run: later steps win, then later attempts."""

    step: int
    attempt: int
    uri: str


def checkpoint_name(step: int, attempt: int) -> str:
    """Directory name; the attempt keeps a restarted run from mixing its files with older ones."""
    return f"step-{step:08d}-a{attempt}"


def manifest_name(rank: int) -> str:
    """Name of the file in which a rank lists what it wrote."""
    return f"rank-{rank:05d}.manifest.json"


def write_rank_manifest(directory: str, rank: int, records: Sequence[FileRecord]) -> FileRecord:
    """List a rank's files with their hashes.

    Args:
        directory: Where the files are.
        rank: The writer's world rank.
        records: Its files.

    Returns:
        The record of the manifest itself, for the commit.
    """
    name = manifest_name(rank)
    text = json.dumps([record.model_dump() for record in records], indent=1)
    storage.write_text(storage.join(directory, name), text)
    return record_files(directory, [name])[0]


def list_checkpoints(directory: str, *, also_set_aside: bool = False) -> list[CheckpointRef]:
    """Committed checkpoints of a directory, oldest first; not verified.

    Args:
        directory: A run's ``checkpoints/``.
        also_set_aside: Those too that were found damaged; a run that goes on without them is at an earlier step.
    """
    committed = [ref for ref in _directories(directory) if storage.exists(storage.join(ref.uri, COMMIT))]
    return [ref for ref in committed if also_set_aside or not is_set_aside(ref.uri)]


def _directories(directory: str) -> list[CheckpointRef]:
    """What is named like a checkpoint, whole or not, oldest first."""
    if not storage.exists(directory):
        return []
    fs, path = storage.filesystem(directory)
    found = []
    for entry in fs.ls(path, detail=False):
        name = str(entry).rstrip("/").rpartition("/")[2]
        if match := _NAME.match(name):
            found.append(CheckpointRef(int(match[1]), int(match[2]), storage.join(directory, name)))
    return sorted(found)


def verify_checkpoint(
    uri: str, *, deep: bool, weights_only: bool = False, got_on: Callable[[], object] = lambda: None
) -> Commit:
    """Check that a checkpoint is whole.

    Args:
        uri: The checkpoint's directory.
        deep: Compare SHA-256 of every file, not just sizes; without it, one that is set aside is taken for damaged.
        weights_only: Leave out what only a resumed run reads, several times the weights; it may even be missing.
        got_on: Called again and again while files are read, in threads.

    Raises:
        ArtifactDamaged: Naming the first file that is missing, short or changed.
    """
    if not deep and is_set_aside(uri):
        why = storage.read_text(storage.join(uri, DAMAGED)).strip()
        raise ArtifactDamaged("a checkpoint is damaged", where=uri, why=why)
    try:
        commit = Commit.model_validate_json(storage.read_bytes(storage.join(uri, COMMIT)))
    except FileNotFoundError as error:
        raise ArtifactDamaged("this checkpoint was never finished", where=uri, why=f"{COMMIT} is missing") from error
    except ValidationError as error:
        raise ArtifactDamaged("a checkpoint is damaged", where=uri, why=f"{COMMIT} cannot be read") from error
    expected = {manifest_name(rank) for rank in range(commit.world_size)}
    if {record.path for record in commit.manifests} != expected:
        raise ArtifactDamaged("a checkpoint is damaged", where=uri, why="a rank's manifest is missing from the commit")
    check_files(uri, commit.manifests, deep=True)
    records: list[FileRecord] = []
    for manifest in commit.manifests:
        listed = json.loads(storage.read_bytes(storage.join(uri, manifest.path)))
        records += [FileRecord.model_validate(item) for item in listed]
    wanted = [record for record in records if not (weights_only and record.path.startswith(f"{STATE}/"))]
    check_files(uri, wanted, deep=deep, got_on=got_on)
    return commit


def newest_valid(
    directory: str, *, deep: bool = True, setting_aside: bool = False, got_on: Callable[[], object] = lambda: None
) -> tuple[CheckpointRef | None, list[str]]:
    """The newest checkpoint that is whole, and why newer ones were rejected.

    Args:
        directory: A run's ``checkpoints/``.
        deep: Compare hashes too.
        setting_aside: Mark those that are rejected, so that the run which goes on without them does not count them; one
            that cannot be marked, on a full disk for instance, is passed over all the same.
        got_on: Called again and again while files are read, in threads.

    Returns:
        The checkpoint, or None where there is none, and one line for each rejected one.
    """
    rejected = []
    for ref in reversed(list_checkpoints(directory)):
        try:
            verify_checkpoint(ref.uri, deep=deep, got_on=got_on)
        except ArtifactDamaged as error:
            rejected.append(f"{ref.uri} is not used: {error.why}")
            if setting_aside:
                rejected[-1] += try_to_set_aside(ref.uri, error.why)
            continue
        return ref, rejected
    return None, rejected


def try_to_set_aside(uri: str, why: str) -> str:
    """Mark a damaged checkpoint if that can be written, and say so: an older one can be read on a full disk too."""
    try:
        set_aside(uri, why)
    except (OSError, SetupError) as error:
        return f"; it could not be set aside: {error}"
    return "; it is set aside until `rayllm checkpoints verify` finds it whole"


def find_checkpoint(uri: str, prefer: Literal["best", "last"] = "best") -> str:
    """The checkpoint that a user means.

    Args:
        uri: A checkpoint, a ``checkpoints/`` directory, a train artifact, or the directory of a run that has one.
        prefer: Which one to take where there are several.

    Raises:
        ConfigError: If there is none, or the run has several train artifacts.
    """
    if storage.exists(storage.join(uri, COMMIT)):
        return uri
    directory = checkpoints_of(uri)
    if prefer == "best":
        try:
            if best := read_best(directory):
                found = storage.join(directory, best.name)
                verify_checkpoint(found, deep=False)
                return found
        except ArtifactDamaged as error:
            logger.warning("the best checkpoint is not used: %s: %s", error.where, error.why)
    ref, rejected = newest_valid(directory, deep=False)
    if ref is None:
        raise ConfigError(
            "there is no checkpoint here",
            where=uri,
            why="; ".join(rejected) or ("all are damaged" if list_checkpoints(directory, also_set_aside=True) else ""),
            fix="give a checkpoint directory, the train artifact that holds `checkpoints/`, or its run's directory; "
            "if they were deleted, train again with --force",
        )
    return ref.uri


def checkpoints_of(uri: str) -> str:
    """The directory of checkpoints of a run's directory or a train artifact; any other directory as it is.

    Raises:
        ConfigError: If the run has several train artifacts.
    """
    artifact = train_artifact(uri)
    directory = storage.join(artifact, DIRECTORY)
    return directory if storage.exists(directory) else artifact


def train_artifact(uri: str) -> str:
    """The train artifact of a run's directory; any other directory as it is.

    Raises:
        ConfigError: If there are several that came to a checkpoint.
    """
    fs, path = storage.filesystem(uri)
    entries = fs.ls(path, detail=False) if fs.isdir(path) else []
    names = sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in entries)
    found = [name for name in names if name.startswith("train-")]
    if len(found) > 1:
        found = [name for name in found if list_checkpoints(storage.join(uri, name, DIRECTORY))] or found
    if len(found) > 1:
        raise ConfigError(
            "this run has been trained with several settings", where=uri, why=", ".join(found), fix="name one of them"
        )
    return storage.join(uri, found[0]) if found else uri


def read_best(directory: str) -> Best | None:
    """Name, metric and value of the best checkpoint so far, if one was judged.

    Raises:
        ArtifactDamaged: If the file that says so cannot be read.
    """
    where = storage.join(directory, BEST)
    if not storage.exists(where):
        return None
    try:
        return Best.model_validate_json(storage.read_bytes(where))
    except ValidationError as error:
        raise ArtifactDamaged(
            "the note of the best checkpoint is damaged",
            where=where,
            why=f"{BEST} cannot be read",
            fix="delete the file; the next checkpoint that is judged writes it again",
        ) from error


def write_best(directory: str, best: Best) -> None:
    """Remember the best checkpoint."""
    storage.write_text(storage.join(directory, BEST), best.model_dump_json())


def pin(uri: str) -> None:
    """Mark a checkpoint that must never be deleted; the mark is a file in it."""
    storage.write_text(storage.join(uri, PINNED), "kept until this file is removed\n")


def unpin(uri: str) -> None:
    """Take the mark away, if it is there."""
    if is_pinned(uri):
        storage.remove(storage.join(uri, PINNED))


def is_pinned(uri: str) -> bool:
    """Whether a checkpoint must never be deleted."""
    return storage.exists(storage.join(uri, PINNED))


def set_aside(uri: str, why: str) -> None:
    """Mark a checkpoint that is damaged; the mark is a file in it. Nothing of it is deleted: it may be restored."""
    storage.write_text(storage.join(uri, DAMAGED), f"{why}\n")


def take_back(uri: str) -> None:
    """Take that mark away, if it is there."""
    storage.remove(storage.join(uri, DAMAGED))


def is_set_aside(uri: str) -> bool:
    """Whether a checkpoint was found damaged."""
    return storage.exists(storage.join(uri, DAMAGED))


def remove_checkpoint(uri: str) -> None:
    """Delete a checkpoint: the commit first, so that a half-deleted one is never taken for whole."""
    storage.remove(storage.join(uri, COMMIT))
    fault("prune.uncommitted")
    storage.remove(uri)


def clear_uncommitted(directory: str) -> None:
    """Delete what killed saves of a run published in part, and what killed deletions left."""
    for ref in _directories(directory):
        if not storage.exists(storage.join(ref.uri, COMMIT)):
            storage.remove(ref.uri)


def publish_directory(staging: Path, uri: str) -> None:
    """Move one rank's staged files to a checkpoint's directory; a commit among them goes last.

    Local files on the same file system are renamed; others are uploaded one by one. Files are flushed before and
    their names after, so that a commit that is there after a power cut stands for files that are there too.
    """
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    files.sort(key=lambda path: path.name == COMMIT)
    for number, source in enumerate(files):
        name = source.relative_to(staging).as_posix()
        fault("publish.file", number)
        target = storage.join(uri, name)
        with source.open("rb") as file:
            os.fsync(file.fileno())
        if storage.is_local(uri) and _same_device(source, storage.local_path(uri)):
            path = storage.local_path(target)
            path.parent.mkdir(parents=True, exist_ok=True)
            source.replace(path)
        else:
            storage.upload(source, target)
    if storage.is_local(uri):
        _sync_names(storage.local_path(uri), [path.relative_to(staging) for path in files])
    shutil.rmtree(staging)
    _remove_empty(staging.parent, staging.parent.parent)


def _sync_names(directory: Path, files: Sequence[Path]) -> None:
    """Flush the directories between a directory's parent and files in it, innermost first."""
    for inner in sorted({inner for file in files for inner in file.parents}, reverse=True):
        storage.sync_directory(directory / inner)
    storage.sync_directory(directory.parent)


def _remove_empty(*directories: Path) -> None:
    """Remove directories, innermost first, as far as nothing is in them: other ranks may still be at work there."""
    with contextlib.suppress(OSError):
        for directory in directories:
            directory.rmdir()


def _same_device(source: Path, target: Path) -> bool:
    target.mkdir(parents=True, exist_ok=True)
    return source.stat().st_dev == target.stat().st_dev


def staging_directory(checkpoints: str, name: str, rank: int) -> Path:
    """An empty local directory in which a rank prepares its part of a checkpoint."""
    path = staging_path(checkpoints, name, rank)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def staging_path(checkpoints: str, name: str, rank: int) -> Path:
    """Where that directory is."""
    return _staging(checkpoints) / name / f"rank-{rank:05d}"


def clear_staging(checkpoints: str) -> None:
    """Remove what killed saves of a run left on this machine; while a save is at work it must not be called."""
    shutil.rmtree(_staging(checkpoints), ignore_errors=True)


def _staging(checkpoints: str) -> Path:
    """Where the saves of a run are prepared: beside the target if that is local: files are then renamed."""
    if storage.is_local(checkpoints):
        return storage.local_path(checkpoints) / ".staging"
    return Path(tempfile.gettempdir()) / f"rayllm-staging-{hashlib.sha256(checkpoints.encode()).hexdigest()[:16]}"
