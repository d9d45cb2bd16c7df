"""Conversations for fine-tuning, and pairs of replies for preference training: sets in any of the usual layouts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from rayllm.corpus.conversations.detect import detect_layout
from rayllm.corpus.conversations.layouts import FIELDS, LAYOUTS, Layout
from rayllm.corpus.conversations.pairs import PAIR_FIELDS, PAIR_LAYOUTS
from rayllm.corpus.conversations.turns import MESSAGES, REJECTED
from rayllm.corpus.documents import Content, Piece
from rayllm.corpus.files.first_rows import is_parquet
from rayllm.corpus.sources.base import FilesConfig
from rayllm.corpus.sources.rows import line_pieces, row_group_pieces


class RowsOfTurns(FilesConfig):
    """Rows of JSON Lines or Parquet (by the file's ending) whose texts are turns."""

    content: Content = Field(default="chat", description="Which of `prepare.rules` apply: prose, code, math or chat.")
    id: str | None = Field(
        default=None, description="Field that holds the id; by default the hash of the text is the id."
    )
    metadata: list[str] = Field(default=[], description="Fields that are kept as metadata.")

    @field_validator("metadata")
    @classmethod
    def _names_are_free(cls, value: list[str]) -> list[str]:
        if taken := {MESSAGES, REJECTED}.intersection(value):
            raise ValueError(f"the metadata holds the turns as `{taken.pop()}`: the field cannot be kept beside them")
        return value

    def pieces_of(self, layout: str, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Pieces as of JSON Lines and Parquet; each knows the layout."""
        files = self.files(setting)
        lines, tables = ([file for file in files if is_parquet(file) == wanted] for wanted in (False, True))
        for piece in line_pieces(lines, unit_bytes):
            yield piece.model_copy(update={"layout": layout})
        for piece in row_group_pieces(tables, [], setting, unit_bytes):
            yield piece.model_copy(update={"layout": layout})

    def columns(self, fields: Sequence[str]) -> list[str]:
        """The columns to read of a table, where it has them."""
        return [*fields, *([self.id] if self.id else [])]


class ConversationsSource(RowsOfTurns):
    """Rows of JSON Lines or Parquet (by the file's ending), each a conversation."""

    kind: Literal["conversations"] = Field(default="conversations", description="Conversations.")
    layout: Literal["auto", "messages", "sharegpt", "alpaca", "self_instruct", "prompt_completion", "oasst"] = Field(
        default="auto",
        description="How a row holds a conversation; `auto` looks at the first rows, says what it found, and refuses "
        "rows that fit several layouts or differ.",
    )

    @property
    def required_fields(self) -> list[str]:
        """The columns to read of a table, where it has them."""
        return self.columns(FIELDS)

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """See ``pieces_of``.

        Raises:
            DataError: If the layout cannot be told.
        """
        found = detect_layout(self.files(setting), setting, LAYOUTS) if self.layout == "auto" else self.layout
        return self.pieces_of(found, setting, unit_bytes)


class PreferencesSource(RowsOfTurns):
    """Rows of JSON Lines or Parquet (by the file's ending), each two replies to a prompt, one of them preferred."""

    kind: Literal["preferences"] = Field(default="preferences", description="Pairs of replies.")
    layout: Literal["auto", "messages", "sharegpt", "transcripts", "alpaca", "outputs", "prompt"] = Field(
        default="auto",
        description="How a row holds a pair; `auto` looks at the first rows, says what it found, and refuses rows that "
        "fit several layouts or differ.",
    )

    @property
    def required_fields(self) -> list[str]:
        """The columns to read of a table, where it has them."""
        return self.columns(PAIR_FIELDS)

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """See ``pieces_of``.

        Raises:
            DataError: If the layout cannot be told.
        """
        layouts: Mapping[str, Layout[Any]] = PAIR_LAYOUTS
        files = self.files(setting)
        found = detect_layout(files, setting, layouts, "pairs") if self.layout == "auto" else self.layout
        return self.pieces_of(found, setting, unit_bytes)
