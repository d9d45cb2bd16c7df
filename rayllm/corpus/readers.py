"""Units to documents: a reader for each kind of source, streaming, in memory bounded by ``max_row_bytes``.

Whatever in a file is not a document (a malformed line, invalid UTF-8, a wrong type, a missing field, a cut-off file)
comes out as a ``BadRow`` and never stops the rest. Only a file that cannot be opened at all is an error.
"""

import hashlib
import json
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rayllm.core import storage
from rayllm.core.errors import DataError
from rayllm.corpus.builtin.math import generate_problem
from rayllm.corpus.builtin.prose import prose_of_metadata, prose_of_python
from rayllm.corpus.documents import BadRow, Document, FileRef, LineCount, Unit
from rayllm.corpus.files.lines import DamagedFile, read_chunks, read_lines
from rayllm.corpus.sources import (
    InstalledProseSource,
    JsonlSource,
    ParquetSource,
    RowsConfig,
    Source,
    SyntheticMathSource,
    TextSource,
)

Row = Document | BadRow | LineCount
PARQUET_BATCH_ROWS = 256
_BOM = b"\xef\xbb\xbf"


class UnusableRow(Exception):
    """A row that holds no document: the kind of the fault, and what a person wants to know."""

    def __init__(self, kind: str, detail: str) -> None:
        self.kind, self.detail = kind, detail
        super().__init__(f"{kind}: {detail}")


def read_unit(unit: Unit, source: Source, *, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read the documents of a unit, in the order of its files.

    Args:
        unit: What to read.
        source: The source that listed it.
        max_row_bytes: Longer lines and files become bad rows, in bytes.
        seed: The run's seed, for sources that generate.

    Raises:
        DataError: If a file cannot be opened or read.
    """
    reader = READERS[source.kind]
    try:
        yield from reader(unit, source, max_row_bytes, seed)
    except OSError as error:
        raise DataError(
            "a source cannot be read",
            where=error.filename or ", ".join(file.label for file in unit.files[:3]),
            why=error.strerror or str(error),
            fix=f"make it readable, or take it out of the sources of {unit.domain}",
        ) from error


def read_jsonl(unit: Unit, source: JsonlSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read JSON Lines; rows are numbered by line, from the unit's first. Blank lines count and hold nothing."""
    for file in unit.files:
        number = 0
        try:
            for line in read_lines(file.uri, unit.start, unit.stop, max_bytes=max_row_bytes):
                number += 1
                try:
                    if line is None:
                        raise UnusableRow("line_too_long", f"more than {max_row_bytes:,} bytes")
                    if line.strip():
                        first = number == 1 and unit.start == 0
                        yield _document(parse_json_object(line.removeprefix(_BOM) if first else line), source, file)
                except UnusableRow as error:
                    yield BadRow(file.label, number, error.kind, error.detail)
        except DamagedFile as error:
            yield BadRow(file.label, None, "damaged_file", f"after line {number}: {error}")
        if unit.stop is not None:
            yield LineCount(number)


def parse_json_object(line: bytes) -> dict[str, Any]:
    """Parse one line of JSONL.

    Raises:
        UnusableRow: If it is not UTF-8, not JSON, or not an object.
    """
    text = decode(line)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:  # its own "line 1" would contradict the line of the file
        raise UnusableRow("malformed_json", f"{error.msg} at character {error.pos + 1}") from error
    except (ValueError, RecursionError) as error:
        raise UnusableRow("malformed_json", str(error)) from error
    if not isinstance(value, dict):
        raise UnusableRow("wrong_type", f"the line holds a {type(value).__name__}, not an object")
    return value


def decode(data: bytes) -> str:
    """Strict UTF-8.

    Raises:
        UnusableRow: If it is something else.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableRow("invalid_utf8", f"byte {error.start}: {error.reason}") from error


def read_parquet(unit: Unit, source: ParquetSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read row groups; rows are numbered through the file."""
    (file,) = unit.files
    wanted = [name for name in (*source.fields, source.id, *source.metadata) if name]
    number = 0
    try:
        with storage.open_file(file.uri) as stream:
            parquet = pq.ParquetFile(stream)
            groups = list(range(unit.start, unit.stop or parquet.num_row_groups))
            number = sum(parquet.metadata.row_group(index).num_rows for index in range(unit.start))
            names = set(parquet.schema_arrow.names)
            columns = sorted({name for name in wanted if name.split(".")[0] in names})
            for batch in parquet.iter_batches(PARQUET_BATCH_ROWS, row_groups=groups, columns=columns):
                for row in _batch_rows(batch):
                    number += 1
                    try:
                        yield _document(row, source, file, max_row_bytes)
                    except UnusableRow as error:
                        yield BadRow(file.label, number, error.kind, error.detail)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system failed, not the file
        yield BadRow(file.label, None, "damaged_file", f"after row {number}: {error}")


def _batch_rows(batch: pa.RecordBatch) -> Iterator[Mapping[str, Any]]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        # One bad string spoils the conversion of the whole batch; row by row, only its own row is lost.
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield {}


def _document(row: Mapping[str, Any], source: RowsConfig, file: FileRef, max_row_bytes: int | None = None) -> Document:
    """Make a document of a row with named fields.

    Raises:
        UnusableRow: If a field is missing, has the wrong type or is too long.
    """
    if source.template is None:
        text = _text_field(row, source.text, strict=True)
    else:
        parts = string.Formatter().parse(source.template)
        text = "".join(
            literal + (_text_field(row, name, strict=False) if name else "") for literal, name, _, _ in parts
        )
    if (
        max_row_bytes is not None
        and len(text) * 4 > max_row_bytes
        and len(text.encode(errors="replace")) > max_row_bytes
    ):
        raise UnusableRow("row_too_long", f"more than {max_row_bytes:,} bytes")
    metadata = {name: value for name in source.metadata if (value := _lookup(row, name)) is not None}
    name = _text_field(row, source.id, strict=False) if source.id else ""
    return Document(valid_text(text), file.label, valid_text(name), metadata)


def valid_text(text: str) -> str:
    r"""The same text.

    Raises:
        UnusableRow: If it has lone surrogates (from ``\ud800`` in JSON), which no encoding holds.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UnusableRow("invalid_utf8", f"lone surrogate at character {error.start}") from error
    return text


def _text_field(row: Mapping[str, Any], name: str, *, strict: bool) -> str:
    value = _lookup(row, name)
    if isinstance(value, str):
        return value
    if value is None and name.split(".")[0] not in row:
        there = ", ".join(list(row)[:8]) or "none that can be read"
        raise UnusableRow("missing_field", f"no field {name!r}; fields here: {there}")
    if not strict and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise UnusableRow("wrong_type", f"field {name!r} is {'null' if value is None else type(value).__name__}, not text")


def _lookup(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def read_text(unit: Unit, source: TextSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read plain text; rows are numbered by document."""
    for file in unit.files:
        number = 0
        try:
            lines = read_lines(file.uri, max_bytes=max_row_bytes)
            for data in cut_text(lines, source, max_row_bytes):
                number += 1
                try:
                    if data is None:
                        raise UnusableRow("line_too_long", f"more than {max_row_bytes:,} bytes")
                    yield Document(_plain_text(data.removeprefix(_BOM) if number == 1 else data), file.label)
                except UnusableRow as error:
                    yield BadRow(file.label, number, error.kind, error.detail)
        except DamagedFile as error:
            yield BadRow(file.label, None, "damaged_file", f"after document {number}: {error}")


def cut_text(lines: Iterator[bytes | None], source: TextSource, max_bytes: int) -> Iterator[bytes | None]:
    """Put lines together to documents, and cut long ones at the last blank line before ``piece_bytes``.

    A line that was too long to be held comes through as None.

    Args:
        lines: The lines of a file.
        source: What a document is, and how long it may be.
        max_bytes: How long a document may be where the source has no limit.
    """
    if source.documents == "line":
        yield from (line for line in lines if line is None or line.strip())
        return
    separator = source.separator.encode() if source.documents == "separator" else None
    limit = source.piece_bytes or max_bytes
    held: list[bytes] = []
    size = blank = 0
    for line in lines:
        if line is None or (separator is not None and line.strip() == separator):
            if held:
                yield b"\n".join(held)
            if line is None:
                yield None
            held, size, blank = [], 0, 0
            continue
        held.append(line)
        size += len(line) + 1
        blank = blank if line.strip() else len(held)
        if size >= limit:
            cut = blank or len(held)
            yield b"\n".join(held[:cut])
            held = held[cut:]
            size, blank = sum(len(rest) + 1 for rest in held), 0
    if held:
        yield b"\n".join(held)


def _plain_text(data: bytes) -> str:
    if b"\0" in data:
        raise UnusableRow("binary", "it has NUL bytes")
    return decode(data)


def read_files(unit: Unit, source: Source, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read each file as one document, its name as metadata."""
    for file in unit.files:
        try:
            text = _plain_text(_whole_file(file, max_row_bytes).removeprefix(_BOM))
            yield Document(text, file.label, metadata={"path": file.label})
        except UnusableRow as error:
            yield BadRow(file.label, None, error.kind, error.detail)
        except DamagedFile as error:
            yield BadRow(file.label, None, "damaged_file", str(error))


def _whole_file(file: FileRef, max_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    for chunk in read_chunks(file.uri):
        chunks.append(chunk)
        size += len(chunk)
        if size > max_bytes:
            raise UnusableRow("file_too_long", f"more than {max_bytes:,} bytes")
    return b"".join(chunks)


def read_prose(unit: Unit, source: InstalledProseSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read the prose of packages, a document for each module, up to ``unit.stop`` bytes.

    Modules are taken in the order of their names' hashes, so that a limit leaves out some of everything; a paragraph
    that occurred before in the unit is left out.
    """
    seen: set[str] = set()
    left = unit.stop
    for file in sorted(unit.files, key=lambda file: hashlib.blake2b(file.label.encode(), digest_size=8).digest()):
        data = storage.read_bytes(file.uri)
        extract = prose_of_metadata if file.label.endswith("/METADATA") else prose_of_python
        paragraphs = [text for text in dict.fromkeys(extract(data)) if text not in seen]
        seen.update(paragraphs)
        text = "\n\n".join(paragraphs)
        if left is not None:
            left -= len(text.encode())
            if left < 0:
                return
        if text:
            yield Document(text, file.label, metadata={"path": file.label})


def generate_math(unit: Unit, source: SyntheticMathSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Generate the documents of a range of numbers."""
    for number in range(unit.start, unit.stop or source.documents):
        problem = generate_problem(seed, source.split, number)
        yield Document(problem.document, f"synthetic_math/{source.split}", metadata={"template": problem.template})


READERS: dict[str, Callable[[Unit, Any, int, int], Iterator[Row]]] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "text": read_text,
    "code": read_files,
    "python_stdlib": read_files,
    "installed_prose": read_prose,
    "synthetic_math": generate_math,
}
