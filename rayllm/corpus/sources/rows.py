"""Files of rows with named fields: JSON Lines, Parquet, Arrow."""

import string
from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rayllm.core import storage
from rayllm.corpus.conversations.turns import MESSAGES
from rayllm.corpus.documents import FileRef, Piece
from rayllm.corpus.files.cuts import (
    ask_each,
    batch_bytes,
    cut_blocks,
    cut_lines,
    group_files,
    row_group_bytes,
    whole_files,
)
from rayllm.corpus.files.lines import compression_of
from rayllm.corpus.licenses import FieldLicenses
from rayllm.corpus.sources.base import FilesConfig


class RowsConfig(FilesConfig):
    """How the fields of a row become a document."""

    text: str = Field(
        default="text",
        description="Field that holds the text, or a list of texts, which are joined by newlines; a dot goes into "
        "nested fields and, with a number, into lists: `answers.0.text`.",
    )
    template: str | None = Field(
        default=None, description="Text made of several fields, such as `{question}\\n{answer}`; instead of `text`."
    )
    id: str | None = Field(
        default=None, description="Field that holds the id; by default the hash of the text is the id."
    )
    metadata: list[str] = Field(default=[], description="Fields that are kept as metadata.")
    licenses: FieldLicenses | None = Field(
        default=None, description="Which rows to take by a licence field; others are dropped and counted. Null: all."
    )

    @field_validator("metadata")
    @classmethod
    def _no_conversations(cls, value: list[str]) -> list[str]:
        if MESSAGES in value:
            raise ValueError(f"`{MESSAGES}` are kept for conversations only: use `kind: conversations`")
        return value

    @model_validator(mode="after")
    def _one_way_to_the_text(self) -> "RowsConfig":
        if self.template is None:
            return self
        if "text" in self.model_fields_set and self.text != "text":
            raise ValueError("set `text` or `template`, not both")
        for _, name, specification, conversion in string.Formatter().parse(self.template):
            if name == "" or specification or conversion:
                raise ValueError("in `template`, braces hold the name of a field and nothing else")
        if not self.text_fields:
            raise ValueError("`template` names no field, so all documents would be equal")
        return self

    @property
    def text_fields(self) -> list[str]:
        """The fields that the text is made of."""
        if self.template is None:
            return [self.text]
        return [name for _, name, _, _ in string.Formatter().parse(self.template) if name]

    @property
    def required_fields(self) -> list[str]:
        """The fields without which no row can be used."""
        return [*self.text_fields, *([self.id] if self.id else []), *([self.licenses.field] if self.licenses else [])]


class JsonlSource(RowsConfig):
    """JSON Lines: one object a line, plain or compressed (gz, zst, bz2)."""

    kind: Literal["jsonl"] = Field(default="jsonl", description="JSON Lines.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Small files in groups; large uncompressed ones by byte range."""
        yield from line_pieces(self.files(setting), unit_bytes)


class ParquetSource(RowsConfig):
    """Parquet files."""

    kind: Literal["parquet"] = Field(default="parquet", description="Parquet.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Row groups, several to a unit where they are small."""
        yield from row_group_pieces(self.files(setting), self.required_fields, setting, unit_bytes)


class ArrowSource(RowsConfig):
    """Arrow IPC: the file format, and the stream format that the `datasets` library writes."""

    kind: Literal["arrow"] = Field(default="arrow", description="Arrow IPC files and streams.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Batches of files; streams, which have no index, as a whole."""
        files = self.files(setting)
        remote = not all(storage.is_local(file.uri) for file in files)
        counts = ask_each(files, lambda file: batch_bytes(file, self.required_fields, setting), remote=remote)
        for file, sizes in zip(files, counts, strict=True):
            yield from [whole_files([file])] if sizes is None else cut_blocks(file, sizes, unit_bytes)


def line_pieces(files: Sequence[FileRef], unit_bytes: int) -> Iterator[Piece]:
    """Small files of lines in groups; large uncompressed ones by byte range."""
    for piece in group_files(files, unit_bytes):
        (file, *others) = piece.files
        if others or file.bytes <= unit_bytes or compression_of(file.uri) or not file.seekable:
            yield piece
        else:
            yield from cut_lines(file, unit_bytes)


def row_group_pieces(files: Sequence[FileRef], fields: Sequence[str], setting: str, unit_bytes: int) -> Iterator[Piece]:
    """Row groups of Parquet files, several to a unit where they are small.

    Args:
        files: The files.
        fields: Columns that each must have.
        setting: Where the source stands in the config, for errors.
        unit_bytes: Input that a piece should have, in bytes.

    Raises:
        DataError: If a file lacks a column.
    """
    remote = not all(storage.is_local(file.uri) for file in files)
    counts = ask_each(files, lambda file: row_group_bytes(file, fields, setting), remote=remote)
    for file, sizes in zip(files, counts, strict=True):
        # Not to be cut, or not readable as Parquet: then the reader puts it into quarantine.
        yield from [whole_files([file])] if sizes is None else cut_blocks(file, sizes, unit_bytes)
