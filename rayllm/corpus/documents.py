"""The types that flow through a preparation: the unit of work, the document, and the row that could not be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

Split = Literal["train", "validation"]
Content = Literal["prose", "code", "math"]


class FileRef(BaseModel):
    """A file to read.

    Attributes:
        uri: Where it is, independent of the working directory.
        label: Its name in the corpus: as the config writes it, so that the corpus does not depend on the machine.
        bytes: Its size as stored; 0 where the file system does not tell.
    """

    model_config = ConfigDict(frozen=True)

    uri: str
    label: str
    bytes: int = 0


class Unit(BaseModel):
    """A piece of one source that one task reads.

    Attributes:
        domain: Name of the domain.
        split: Whether the source is a training or a validation source.
        source: Position of the source in its domain's list.
        files: What to read, in order.
        start: First byte of a JSONL file, first row group of a Parquet file, first document of a generator.
        stop: One after the last, or None for the end of the file.
    """

    model_config = ConfigDict(frozen=True)

    domain: str
    split: Split
    source: int
    files: tuple[FileRef, ...] = ()
    start: int = 0
    stop: int | None = None

    @property
    def bytes(self) -> int:
        """Size of what it reads, as stored; 0 where that is not known."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a domain; ``id`` is empty where the source has none of its own."""

    text: str
    source: str
    id: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadRow:
    """Something in a source that is not a document.

    Attributes:
        source: Label of the file.
        row: One-based line or row, counted from the start of what the unit reads; None for the rest of the file.
        kind: Short name that counts are kept by, such as ``malformed_json``.
        detail: What is wrong, for a person.
    """

    source: str
    row: int | None
    kind: str
    detail: str


@dataclass(frozen=True, slots=True)
class LineCount:
    """How many lines a range of a file had, so that the numbers of the next range's lines can go on from there."""

    lines: int
