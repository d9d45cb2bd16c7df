"""Conversations for fine-tuning: sets in any of the usual layouts."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from rayllm.corpus.conversations.detect import detect_layout
from rayllm.corpus.conversations.layouts import FIELDS
from rayllm.corpus.documents import Content, Piece
from rayllm.corpus.files.first_rows import is_parquet
from rayllm.corpus.sources.base import FilesConfig
from rayllm.corpus.sources.rows import line_pieces, row_group_pieces


class ConversationsSource(FilesConfig):
    """Rows of JSON Lines or Parquet (by the file's ending), each a conversation."""

    kind: Literal["conversations"] = Field(default="conversations", description="Conversations.")
    content: Content = Field(default="chat", description="Which of `prepare.rules` apply: prose, code, math or chat.")
    layout: Literal["auto", "messages", "sharegpt", "alpaca", "self_instruct", "prompt_completion", "oasst"] = Field(
        default="auto",
        description="How a row holds a conversation; `auto` looks at the first rows, says what it found, and refuses "
        "rows that fit several layouts or differ.",
    )
    id: str | None = Field(
        default=None, description="Field that holds the id; by default the hash of the text is the id."
    )
    metadata: list[str] = Field(default=[], description="Fields that are kept as metadata.")

    @property
    def required_fields(self) -> list[str]:
        """The columns to read of a table, where it has them."""
        return [*FIELDS, *([self.id] if self.id else [])]

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Pieces as of JSON Lines and Parquet; each knows the layout.

        Raises:
            DataError: If the layout cannot be told.
        """
        files = self.files(setting)
        layout = detect_layout(files, setting) if self.layout == "auto" else self.layout
        lines, tables = ([file for file in files if is_parquet(file) == wanted] for wanted in (False, True))
        for piece in line_pieces(lines, unit_bytes):
            yield piece.model_copy(update={"layout": layout})
        for piece in row_group_pieces(tables, [], setting, unit_bytes):
            yield piece.model_copy(update={"layout": layout})
