"""Rows of conversations to documents."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from rayllm.corpus.conversations.layouts import LAYOUTS
from rayllm.corpus.conversations.turns import Turn, conversation
from rayllm.corpus.documents import Document, FileRef, Row, Unit, UnusableRow, Unwanted
from rayllm.corpus.files.first_rows import is_parquet
from rayllm.corpus.readers.jsonl import read_jsonl
from rayllm.corpus.readers.rows import check_length, find_field, text_field, valid_text
from rayllm.corpus.readers.tables import read_parquet
from rayllm.corpus.sources.conversations import ConversationsSource


def read_conversations(unit: Unit, source: ConversationsSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read rows of the layout that was found, or named, when the unit was made."""
    read = read_parquet if is_parquet(unit.files[0]) else read_jsonl
    return read(unit, source, max_row_bytes, seed, partial(row_conversation, layout=unit.layout))


def row_conversation(
    row: Mapping[str, Any], source: ConversationsSource, file: FileRef, max_row_bytes: int, layout: str
) -> Document | Unwanted:
    """Make a document of a row.

    Raises:
        UnusableRow: If it has another layout, a role is not known, or a text is none or too long.
    """
    if not LAYOUTS[layout].fits(row):
        there = ", ".join(list(row)[:8]) or "none"
        raise UnusableRow("other_layout", f"{layout} has {LAYOUTS[layout].needs}; fields here: {there}")
    turns = [Turn(turn.role, valid_text(turn.content)) for turn in LAYOUTS[layout].turns(row)]
    metadata = {name: value for name in source.metadata if (value := find_field(row, name)) is not None}
    name = valid_text(text_field(row, source.id, numbers=True)) if source.id else ""
    made = conversation(turns, file.label, name, metadata)
    check_length(made.text if isinstance(made, Document) else made.document.text, max_row_bytes)
    return made
