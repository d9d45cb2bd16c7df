"""Rows of one length over the tokens of a domain: which tokens a row holds, and reading them.

In: a token stream, and for best-fit packing the index over it. Out: for any row its segments, and the tokens of each
with the one that follows it, which is its last label. What follows the end of a stream is its beginning: a separator,
the end of the last document.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Int64

from rayllm.data.packing.best_fit import RowTable


class Tokens(Protocol):
    """A row of tokens that can be read anywhere; ``data.shards.stream.TokenStream`` is one."""

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        ...

    @property
    def has_mask(self) -> bool:
        """Whether some tokens are not to be learnt."""
        ...

    def read(self, start: int, count: int) -> Int64[np.ndarray, " count"]:
        """The tokens ``start`` to ``start + count``."""
        ...

    def read_mask(self, start: int, count: int) -> Bool[np.ndarray, " count"]:
        """Which of these tokens are to be learnt."""
        ...


class Segment(NamedTuple):
    """Consecutive tokens of a stream that stand in a row.

    Attributes:
        start: The first one's position in the stream.
        length: How many.
    """

    start: int
    length: int


class Piece(NamedTuple):
    """A segment as read.

    Attributes:
        tokens: Its tokens, and the one after them.
        learnt: Which of them count as labels; all of them if None.
    """

    tokens: Int64[np.ndarray, " length+1"]
    learnt: Bool[np.ndarray, " length+1"] | None = None


class Rows(Protocol):
    """Rows of one length over one stream."""

    @property
    def num_rows(self) -> int:
        """Rows in all."""
        ...

    def segments(self, row: int) -> list[Segment]:
        """What a row holds, in its order; together at most the rows' length."""
        ...


@dataclass(frozen=True)
class Slices:
    """Rows of concatenated documents: slice after slice of the stream.

    Attributes:
        num_rows: Rows in all; the token after the last one is its last label.
        seq_len: Tokens of a row.
    """

    num_rows: int
    seq_len: int

    def segments(self, row: int) -> list[Segment]:
        """One segment."""
        return [Segment(row * self.seq_len, self.seq_len)]


@dataclass(frozen=True)
class BestFitRows:
    """Rows of a best-fit index.

    Attributes:
        table: Which tokens make which row.
    """

    table: RowTable

    @property
    def num_rows(self) -> int:
        """Rows in all."""
        return self.table.num_rows

    def segments(self, row: int) -> list[Segment]:
        """Whole documents, and pieces of those that are longer than a row."""
        first, end = self.table.first_segment[row : row + 2]
        starts, lengths = self.table.start[first:end].tolist(), self.table.length[first:end].tolist()
        return [Segment(*pair) for pair in zip(starts, lengths, strict=True)]


def read_segments(stream: Tokens, segments: Sequence[Segment]) -> list[Piece]:
    """Read segments, each with the token that follows it."""
    return [_read(stream, segment) for segment in segments]


def _read(stream: Tokens, segment: Segment) -> Piece:
    start, count = segment.start, segment.length + 1
    inside = min(count, stream.num_tokens - start)
    tokens = stream.read(start, inside)
    if inside < count:
        tokens = np.concatenate([tokens, stream.read(0, 1)])
    if not stream.has_mask:
        return Piece(tokens)
    learnt = stream.read_mask(start, inside)
    return Piece(tokens, learnt if inside == count else np.concatenate([learnt, stream.read_mask(0, 1)]))


@dataclass(frozen=True)
class Fill:
    """How well rows hold the documents of a stream.

    Attributes:
        rows: Rows in all.
        documents: Documents of the stream.
        cut_documents: Those of which no row holds the whole.
        padding_tokens: Positions of rows that hold no token.
        unread_tokens: Tokens of the stream that are in no row.
    """

    rows: int
    documents: int
    cut_documents: int
    padding_tokens: int
    unread_tokens: int

    def padding_frac(self, seq_len: int) -> float:
        """Share of the rows' positions that hold no token."""
        return self.padding_tokens / max(self.rows * seq_len, 1)

    def describe(self, seq_len: int) -> str:
        """All of it in a line."""
        return (
            f"{self.rows:,} rows of {seq_len:,} tokens, {self.cut_documents:,} of {self.documents:,} documents cut, "
            f"{self.padding_frac(seq_len):.3%} padding, {self.unread_tokens:,} tokens in no row"
        )


def fill_of(rows: Rows, starts: Int64[np.ndarray, " documents"], num_tokens: int, seq_len: int) -> Fill:
    """Count what packing costs.

    Args:
        rows: Rows over the stream.
        starts: Each document's first token.
        num_tokens: Tokens of the stream.
        seq_len: Tokens of a row.
    """
    ends = np.append(starts[1:], num_tokens)
    if isinstance(rows, Slices):
        held = rows.num_rows * seq_len
        whole = (starts // seq_len == (ends - 1) // seq_len) & (ends <= held)
    else:
        held = num_tokens
        whole = ends - starts <= seq_len
    padding = max(rows.num_rows * seq_len - held, 0)
    return Fill(rows.num_rows, len(starts), int((~whole).sum()), padding, num_tokens - held)
