"""Rows with named fields to documents, and the rows that hold none."""

import string
from collections.abc import Mapping
from typing import Any, Protocol

from rayllm.corpus.documents import Document, FileRef, UnusableRow, Unwanted
from rayllm.corpus.licenses import FieldLicenses
from rayllm.corpus.sources.rows import RowsConfig


class MakeDocument(Protocol):
    """Makes a document of a row."""

    def __call__(self, row: Mapping[str, Any], source: Any, file: FileRef, max_row_bytes: int) -> Document | Unwanted:
        """See ``row_document``."""
        ...


def row_document(row: Mapping[str, Any], source: RowsConfig, file: FileRef, max_row_bytes: int) -> Document | Unwanted:
    """Make a document of a row.

    Raises:
        UnusableRow: If a field is missing, has the wrong type or is too long.
    """
    if source.template is None:
        text = text_field(row, source.text)
    else:
        parts = string.Formatter().parse(source.template)
        text = "".join(literal + (text_field(row, name, numbers=True) if name else "") for literal, name, _, _ in parts)
    check_length(text, max_row_bytes)
    metadata = {name: value for name in source.metadata if (value := find_field(row, name)) is not None}
    name = text_field(row, source.id, numbers=True) if source.id else ""
    document = Document(valid_text(text), file.label, valid_text(name), metadata)
    reason = _license_reason(row, source.licenses) if source.licenses else None
    return Unwanted(document, reason) if reason else document


def check_length(text: str, max_row_bytes: int) -> None:
    """Refuse what is too long.

    Raises:
        UnusableRow: If the text has more bytes.
    """
    if len(text) * 4 > max_row_bytes and len(text.encode(errors="replace")) > max_row_bytes:
        raise UnusableRow("row_too_long", f"more than {max_row_bytes:,} bytes")


def _license_reason(row: Mapping[str, Any], licenses: FieldLicenses) -> str | None:
    value = find_field(row, licenses.field)
    names = value if isinstance(value, list) else [value]
    return licenses.reason_to_drop([str(name or "") for name in names])


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


def decode(data: bytes) -> str:
    """Strict UTF-8.

    Raises:
        UnusableRow: If it is something else.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnusableRow("invalid_utf8", f"byte {error.start}: {error.reason}") from error


def find_field(row: Mapping[str, Any], name: str) -> Any:
    """The value of a field; a dot goes into nested fields, and with a number into lists. None where there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def text_field(row: Mapping[str, Any], name: str, *, numbers: bool = False) -> str:
    """The text of a field, a list of texts as lines.

    Args:
        row: The row.
        name: Name of the field, see ``find_field``.
        numbers: Whether a number is taken for its text.

    Raises:
        UnusableRow: If there is none.
    """
    value = find_field(row, name)
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return decode(value)
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return "\n".join(value)
    if value is None and name.split(".")[0] not in row:
        there = ", ".join(list(row)[:8]) or "none that can be read"
        raise UnusableRow("missing_field", f"no field {name!r}; fields here: {there}")
    if numbers and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise UnusableRow("wrong_type", f"field {name!r} is {_type_name(value)}, not text")


def _type_name(value: object) -> str:
    if isinstance(value, list):
        return "a list of other things than texts" if value else "an empty list"
    return "null" if value is None else type(value).__name__
