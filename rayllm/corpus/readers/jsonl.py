"""JSON Lines to documents."""

import json
from collections.abc import Iterator
from typing import Any

from rayllm.corpus.documents import BadRow, LineCount, Row, Unit, UnusableRow
from rayllm.corpus.files.lines import DamagedFile, read_lines
from rayllm.corpus.readers.rows import MakeDocument, decode, row_document

_BOM = b"\xef\xbb\xbf"


def read_jsonl(
    unit: Unit, source: Any, max_row_bytes: int, seed: int, make: MakeDocument = row_document
) -> Iterator[Row]:
    """Read JSON Lines; rows are numbered by line, from the unit's first. Blank lines count and hold nothing."""
    for file in unit.files:
        number = 0
        try:
            for line in read_lines(file, unit.start, unit.stop, max_bytes=max_row_bytes):
                number += 1
                try:
                    if line is None:
                        raise UnusableRow("line_too_long", f"more than {max_row_bytes:,} bytes")
                    if line.strip():
                        row = parse_json_object(line.removeprefix(_BOM) if number == 1 and not unit.start else line)
                        yield make(row, source, file, max_row_bytes)
                except UnusableRow as error:
                    yield BadRow(file.label, number, error.kind, error.detail)
        except DamagedFile as error:
            yield BadRow(file.label, None, error.kind, f"after line {number}: {error}")
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
