"""Artifacts: directories at a URI that are written once and say in ``manifest.json`` what they hold.

In: a directory that a stage has filled. Out: its manifest (stage, resolved config, content hash, parents, files with
sizes and SHA-256, counts, versions, wall time), written last. A directory without a manifest is not an artifact; one
whose files differ from their manifest is damaged, named, and never used. Checkpoints are not its business: they have
manifests of their own, and may be pinned and pruned once the artifact is published.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged

MANIFEST = "manifest.json"
HASH_THREADS = 4
CHUNK_BYTES = 8 << 20
#: What ``core.checkpoint`` keeps, in the artifact of a training or of a trial within a sweep.
_OF_CHECKPOINTS = re.compile(r"(^|/)checkpoints/(best\.json$|step-\d{8,}-a\d+/)")


class FileRecord(BaseModel):
    """One file of an artifact, relative to its directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What an artifact holds and what it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    stage: str
    hash: str
    config: dict[str, Any]
    parents: dict[str, str]
    files: list[FileRecord]
    counts: dict[str, Any]
    versions: dict[str, str]
    wall_s: float
    created: str


@dataclass(frozen=True)
class Artifact:
    """A published artifact: where it is, and its manifest."""

    uri: str
    manifest: Manifest

    @property
    def hash(self) -> str:
        """Content hash of the config and the parents that made it."""
        return self.manifest.hash

    @property
    def counts(self) -> dict[str, Any]:
        """What the stage counted."""
        return self.manifest.counts

    def file(self, path: str) -> str:
        """The URI of one of its files."""
        return storage.join(self.uri, path)

    def verify(self, *, deep: bool, only: str = "") -> None:
        """Check its files against the manifest.

        Args:
            deep: Compare SHA-256 too, not just sizes.
            only: Check only the files whose path starts with this.

        Raises:
            ArtifactDamaged: Naming the first bad file.
        """
        listed = [record for record in self.manifest.files if record.path.startswith(only)]
        records = [record for record in listed if not of_checkpoints(record.path)]  # older manifests list them
        again = f"restore the file, or make it again: rayllm {self.manifest.stage} FILE --force"
        check_files(self.uri, records, deep=deep, fix=again)


def of_checkpoints(path: str) -> bool:
    """Whether a file of an artifact belongs to its checkpoints, which are verified where they are read."""
    return bool(_OF_CHECKPOINTS.search(path))


def sha256_file(uri: str, got_on: Callable[[], object] = lambda: None) -> str:
    """SHA-256 of a file, read in chunks; after each, it says that it got on."""
    digest = hashlib.sha256()
    with storage.open_file(uri) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            got_on()
    return digest.hexdigest()


def record_files(uri: str, paths: Iterable[str]) -> list[FileRecord]:
    """Size and SHA-256 of files below a directory."""

    def record(path: str) -> FileRecord:
        full = storage.join(uri, path)
        return FileRecord(path=path, bytes=storage.size(full), sha256=sha256_file(full))

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return list(pool.map(record, sorted(paths)))


def check_files(
    uri: str,
    records: Iterable[FileRecord],
    *,
    deep: bool,
    fix: str = "restore the file, or build the artifact again with --force",
    got_on: Callable[[], object] = lambda: None,
) -> None:
    """Compare files with their records.

    Args:
        uri: The directory that holds them.
        records: What they must be.
        deep: Compare SHA-256 too, not just sizes.
        fix: What the reader of an error can do.
        got_on: Called again and again while files are read, in threads.

    Raises:
        ArtifactDamaged: Naming the first file that is missing, short or changed.
    """

    def problem(record: FileRecord) -> str:
        full = storage.join(uri, record.path)
        if not storage.exists(full):
            return f"{record.path} is missing"
        if (found := storage.size(full)) != record.bytes:
            return f"{record.path} has {found:,} bytes; the manifest says {record.bytes:,}"
        if deep and sha256_file(full, got_on) != record.sha256:
            return f"{record.path} has other content than its SHA-256 in the manifest"
        return ""

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        found = [text for text in pool.map(problem, records) if text]
    if found:
        more = f" (and {len(found) - 1} more files)" if len(found) > 1 else ""
        raise ArtifactDamaged(
            "an artifact is damaged",
            where=uri,
            why=found[0] + more,
            fix=fix,
        )


def read_artifact(uri: str) -> Artifact:
    """Open a published artifact.

    Raises:
        ArtifactDamaged: If there is no readable manifest.
    """
    where = storage.join(uri, MANIFEST)
    try:
        manifest = Manifest.model_validate_json(storage.read_bytes(where))
    except FileNotFoundError as error:
        raise ArtifactDamaged("this is not a finished artifact", where=uri, why=f"{MANIFEST} is missing") from error
    except ValidationError as error:
        raise ArtifactDamaged("the manifest cannot be read", where=where, why=str(error).splitlines()[0]) from error
    return Artifact(uri, manifest)


def content_hash(value: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON value in canonical form: the same for the same content whatever the key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what shapes an artifact's bytes."""
    names = ("rayllm", "ray", "torch", "deepspeed", "tokenizers", "pyarrow", "numpy")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
