"""Rows of conversations, and of pairs of replies, to documents."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from rayllm.corpus.conversations.layouts import LAYOUTS, Layout
from rayllm.corpus.conversations.pairs import PAIR_LAYOUTS
from rayllm.corpus.conversations.turns import Turn, conversation, preference
from rayllm.corpus.documents import Document, FileRef, Row, Unit, UnusableRow, Unwanted
from rayllm.corpus.files.first_rows import is_parquet
from rayllm.corpus.readers.jsonl import read_jsonl
from rayllm.corpus.readers.rows import check_length, find_field, text_field, valid_text
from rayllm.corpus.readers.tables import read_parquet
from rayllm.corpus.sources.conversations import ConversationsSource, PreferencesSource, RowsOfTurns


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
    turns = _valid(_fitting(row, layout, LAYOUTS).read(row))
    return _checked(conversation(turns, file.label, *_name_and_metadata(row, source)), max_row_bytes)


def read_preferences(unit: Unit, source: PreferencesSource, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read pairs of replies in the layout that was found, or named, when the unit was made."""
    read = read_parquet if is_parquet(unit.files[0]) else read_jsonl
    return read(unit, source, max_row_bytes, seed, partial(row_pair, layout=unit.layout))


def row_pair(
    row: Mapping[str, Any], source: PreferencesSource, file: FileRef, max_row_bytes: int, layout: str
) -> Document | Unwanted:
    """Make a document of a row that holds two replies to the same prompt.

    Raises:
        UnusableRow: If it has another layout, the prompts differ, or a text is none or too long.
    """
    pair = _fitting(row, layout, PAIR_LAYOUTS).read(row)
    chosen, rejected = valid_text(pair.chosen), valid_text(pair.rejected)
    made = preference(_valid(pair.prompt), chosen, rejected, file.label, *_name_and_metadata(row, source))
    return _checked(made, max_row_bytes)


def _fitting(row: Mapping[str, Any], name: str, layouts: Mapping[str, Layout[Any]]) -> Layout[Any]:
    """The layout, if the row has it."""
    if not layouts[name].fits(row):
        there = ", ".join(list(row)[:8]) or "none"
        raise UnusableRow("other_layout", f"{name} has {layouts[name].needs}; fields here: {there}")
    return layouts[name]


def _valid(turns: Sequence[Turn]) -> list[Turn]:
    return [Turn(turn.role, valid_text(turn.content)) for turn in turns]


def _name_and_metadata(row: Mapping[str, Any], source: RowsOfTurns) -> tuple[str, dict[str, object]]:
    metadata = {name: value for name in source.metadata if (value := find_field(row, name)) is not None}
    return valid_text(text_field(row, source.id, numbers=True)) if source.id else "", metadata


def _checked(made: Document | Unwanted, max_row_bytes: int) -> Document | Unwanted:
    check_length(made.text if isinstance(made, Document) else made.document.text, max_row_bytes)
    return made
