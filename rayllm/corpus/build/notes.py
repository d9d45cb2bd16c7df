"""Notes of finished tasks: what a preparation that was stopped need not do again.

A task writes its files through ``Outputs``, which keeps their hashes, and its note after them. A note holds the key of
the task (a digest of all that shapes its files), its result, and the files. A task whose note has its key, and whose
files are as the note says, is not run again; whatever else there may be in the place of a note or a file is ignored.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from rayllm.core import storage
from rayllm.core.artifact import FileRecord, content_hash, record_files, sha256_file
from rayllm.core.faults import fault
from rayllm.core.log import get_logger
from rayllm.corpus.files.tables import write_checked, write_groups, write_table

logger = get_logger(__name__)


class Outputs:
    """Writes the files of one task and remembers what it wrote.

    Attributes:
        files: Records of the files, their paths being URIs.
    """

    def __init__(self) -> None:
        self.files: list[FileRecord] = []

    def table(self, uri: str, table: pa.Table, compression: str = "zstd") -> None:
        """Write a table, see ``tables.write_table``."""
        self.files.append(write_table(uri, table, compression))

    def groups(self, uri: str, groups: list[pa.Table]) -> None:
        """Write a table for each row group of a file, see ``tables.write_groups``."""
        self.files.append(write_groups(uri, groups))

    def data(self, uri: str, data: bytes) -> None:
        """Write a file."""
        self.files.append(write_checked(uri, data))

    def directory(self, uri: str) -> None:
        """Take over all files of a directory that something else has written."""
        found = record_files(uri, storage.list_files(uri))
        self.files += [record.model_copy(update={"path": storage.join(uri, record.path)}) for record in found]


class Finished(BaseModel):
    """A task that is done.

    Attributes:
        key: Digest of all that shapes its files and its result.
        files: What it wrote.
        result: What it returned, a JSON text.
        found: Whether an earlier start had done it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    files: list[FileRecord]
    result: str
    found: bool = False

    @property
    def digest(self) -> str:
        """Digest of the result and of the bytes of all files: what later tasks depend on."""
        return content_hash({"result": self.result, "files": [record.sha256 for record in self.files]})


def once(note: str, key: dict[str, Any], make: Callable[[Outputs], str], *, point: str, number: int) -> Finished:
    """Run a task, unless its note says that it is done.

    Args:
        note: URI of the note.
        key: All that shapes what the task makes, as JSON.
        make: Writes the files and returns the result, a JSON text.
        point: Name of the fault points before the task (``.start``) and between files and note (``.written``).
        number: Number of the task, for the fault points.
    """
    digest = content_hash(key)
    fault(f"{point}.start", number)
    if (found := _read(note, digest)) is not None:
        return found
    outputs = Outputs()
    result = make(outputs)
    fault(f"{point}.written", number)
    finished = Finished(key=digest, files=outputs.files, result=result)
    write_checked(note, finished.model_dump_json(exclude={"found"}).encode())
    return finished


def _read(note: str, key: str) -> Finished | None:
    try:
        finished = Finished.model_validate_json(storage.read_bytes(note))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        logger.warning("%s cannot be read and is ignored: %s", note, str(error).splitlines()[0])
        return None
    if finished.key != key:
        return None
    if damaged := [record.path for record in finished.files if not _intact(record)]:
        logger.warning("%s is missing or damaged and made again", damaged[0])
        return None
    return finished.model_copy(update={"found": True})


def _intact(record: FileRecord) -> bool:
    try:
        return storage.size(record.path) == record.bytes and sha256_file(record.path) == record.sha256
    except FileNotFoundError:
        return False
