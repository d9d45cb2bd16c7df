"""The types that flow through a preparation: the unit of work, the document, and what is left out or cannot be read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict

Split = Literal["train", "validation"]
Content = Literal["prose", "code", "math", "chat"]


class FileRef(BaseModel):
    """A file to read.

    Attributes:
        uri: Where it is, independent of the working directory.
        label: Its name in the corpus: as the config writes it, so that the corpus does not depend on the machine.
        bytes: Its size as stored; 0 where the file system does not tell.
        version: What a remote storage tells of its contents, such as an ETag; empty for local files.
        seekable: Whether a part of it can be read without what stands before.
        license_files: URIs of the licence files that stand nearest above a file of code.
    """

    model_config = ConfigDict(frozen=True)

    uri: str
    label: str
    bytes: int = 0
    version: str = ""
    seekable: bool = True
    license_files: tuple[str, ...] = ()


class Piece(BaseModel):
    """What a source gives to one task.

    Attributes:
        files: What to read, in order.
        start: First byte of a JSONL file, first row group of a Parquet file, first batch of an Arrow file, first
            document of a generator.
        stop: One after the last, or None for the end of the file.
        bytes: How much there is to read; 0 where that is not known.
        layout: How rows of conversations are laid out; empty for everything else.
    """

    model_config = ConfigDict(frozen=True)

    files: tuple[FileRef, ...] = ()
    start: int = 0
    stop: int | None = None
    bytes: int = 0
    layout: str = ""


class Unit(Piece):
    """A piece of one source that one task reads.

    Attributes:
        domain: Name of the domain.
        split: Whether the source is a training or a validation source.
        source: Position of the source in its domain's list.
    """

    domain: str
    split: Split
    source: int


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a domain; ``id`` is empty where the source has none of its own."""

    text: str
    source: str
    id: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unwanted:
    """A document that the settings of its own source leave out.

    Attributes:
        document: What is left out; its text is empty where it was not looked at.
        reason: Short name that counts are kept by, such as ``license_not_allowed``.
    """

    document: Document
    reason: str


class UnusableRow(Exception):
    """A row that holds no document: the kind of the fault, and what a person wants to know."""

    def __init__(self, kind: str, detail: str) -> None:
        self.kind, self.detail = kind, detail
        super().__init__(f"{kind}: {detail}")


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


#: What reading a unit gives.
Row = Document | Unwanted | BadRow | LineCount
