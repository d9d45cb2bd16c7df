"""Best-fit packing: whole documents into rows of one length, worked out on how many documents of each length there are.

In: where the documents of a stream begin, and the length of a row. Out: ``RowTable``, the segments of every row. A
document that is longer than a row is cut into full rows and a rest; all rests and shorter documents are placed by
best-fit decreasing, so that no other document is cut; where that leaves too much room, rows are filled exactly
(``exact_fill``). Equal lengths are placed together: the work grows with the number of lengths, not of documents. Then
the documents of each length take their places in the order of the stream, so that the same documents always make the
same rows.

A document of n tokens fills n positions. The label of its last position is the separator that comes after it, so that
every token of the stream is read once and predicted once.

Source: Ding et al. 2024, Fewer Truncations Improve Language Modeling, arXiv:2404.10830, section 3 (best-fit-decreasing
on the counts of the lengths).
"""

from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt32

from rayllm.data.packing.exact_fill import exact_fill_shapes
from rayllm.data.packing.shapes import Shape

#: Share of rows beyond the fewest that could be, above which another way of filling is tried.
_ENOUGH = 5e-4
#: Lengths up to this are sorted as 16-bit numbers, which numpy does by radix: ten times as fast.
_RADIX_LIMIT = 1 << 16


@dataclass(frozen=True, eq=False)
class RowTable:
    """Which tokens of a stream make which row.

    Row r holds the segments ``first_segment[r]`` to ``first_segment[r + 1]``, one after the other.

    Attributes:
        first_segment: Of each row, and the number of segments at the end.
        start: Each segment's first token in the stream.
        length: Each segment's tokens.
    """

    first_segment: Int64[np.ndarray, " rows+1"]
    start: Int64[np.ndarray, " segments"]
    length: UInt32[np.ndarray, " segments"]

    @property
    def num_rows(self) -> int:
        """Rows in all."""
        return len(self.first_segment) - 1

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows; the rest of their positions is padding."""
        return int(self.length.sum(dtype=np.int64))


def pack_documents(starts: Int64[np.ndarray, " documents"], num_tokens: int, seq_len: int) -> RowTable:
    """Place all documents of a stream into rows.

    Args:
        starts: Each document's first token, ascending, the first one 0; a document ends where the next one begins.
        num_tokens: Tokens of the stream.
        seq_len: Tokens of a row.
    """
    lengths = np.diff(starts, append=num_tokens)
    full, rest = np.divmod(lengths, seq_len)
    # The full pieces of long documents, each a row of its own.
    owner = np.repeat(np.arange(len(starts)), full)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(full) - full, full)
    whole = starts[owner] + nth * seq_len

    left = np.flatnonzero(rest)
    size = rest[left]
    shapes = pack_histogram(np.bincount(size, minlength=seq_len), seq_len)
    by_size = left[np.argsort(size.astype(np.uint16) if seq_len < _RADIX_LIMIT else size, kind="stable")]
    piece, per_row = _assign(shapes, by_size, np.cumsum(np.bincount(size, minlength=seq_len + 1)))
    return RowTable(
        np.cumsum(np.concatenate([np.zeros(1, np.int64), np.ones(len(whole), np.int64), per_row])),
        np.concatenate([whole, (starts + full * seq_len)[piece]]),
        np.concatenate([np.full(len(whole), seq_len), rest[piece]]).astype(np.uint32),
    )


def _assign(
    shapes: list[Shape], by_size: Int64[np.ndarray, " pieces"], size_end: Int64[np.ndarray, " sizes"]
) -> tuple[Int64[np.ndarray, " pieces"], Int64[np.ndarray, " rows"]]:
    """Hand out the pieces of each length, in the order of the stream, to the rows that have a place for one.

    Args:
        shapes: The rows.
        by_size: Pieces by length, then by position in the stream.
        size_end: For each length, how many pieces are at most as long.

    Returns:
        The pieces row by row, and how many each row holds.
    """
    taken = [0, *size_end[:-1].tolist()]  # where the next piece of each length stands in `by_size`
    placed, per_row = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for rows, items in shapes:
        columns = []
        for size, times in items:
            first, taken[size] = taken[size], taken[size] + rows * times
            columns.append(by_size[first : taken[size]].reshape(rows, times))
        placed.append((columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)).ravel())
        per_row.append(np.full(rows, sum(times for _, times in items)))
    return np.concatenate(placed), np.concatenate(per_row)


def pack_histogram(counts: Int64[np.ndarray, " sizes"], capacity: int) -> list[Shape]:
    """Pack by best-fit decreasing, or by exact filling where that takes fewer rows and the difference counts.

    Args:
        counts: ``counts[n]`` pieces of length n; lengths from 1 to ``capacity``.
        capacity: Tokens of a row.
    """
    shapes = best_fit_shapes(counts, capacity)
    rows, fewest = _rows(shapes), -(-int(counts @ np.arange(len(counts))) // capacity)
    if rows - fewest <= _ENOUGH * fewest:
        return shapes
    return min(shapes, exact_fill_shapes(counts, capacity), key=_rows)


def _rows(shapes: list[Shape]) -> int:
    return sum(shape.rows for shape in shapes)


def best_fit_shapes(counts: Int64[np.ndarray, " sizes"], capacity: int) -> list[Shape]:
    """Best-fit decreasing over a histogram of lengths.

    Longer pieces first, each into the row with the least room that is enough for it, or into a new row. Pieces of one
    length that go into rows with the same room are placed together.

    Args:
        counts: ``counts[n]`` pieces of length n; lengths from 1 to ``capacity``.
        capacity: Tokens of a row.

    Returns:
        Every piece in some row. The number of rows is that of best-fit decreasing over single pieces.
    """
    rooms = _Rooms(capacity)
    for size in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[size])
        while left:
            rows, room, items = rooms.tightest(size, left)
            times = room // size
            filled, over = min(rows, left // times), 0
            rooms.put(filled, room - times * size, (items, size, times))
            left -= filled * times
            if filled < rows and left:  # fewer are left than one row has room for
                over, left = left, 0
                rooms.put(1, room - over * size, (items, size, over))
            rooms.put(rows - filled - bool(over), room, items)
    return list(rooms.shapes())


#: The lengths in a row so far: those before, one more length, and how often it comes.
_Items = tuple["_Items | None", int, int] | None


class _Rooms:
    """Rows in the making, by the room that they have left."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_room: dict[int, list[tuple[int, _Items]]] = {}
        self._rooms: list[int] = []  # ascending

    def tightest(self, size: int, pieces: int) -> tuple[int, int, _Items]:
        """Take out some rows with the least room of at least ``size``; new ones for all the pieces if there are none.

        Returns:
            How many rows, their room, and what they hold.
        """
        place = bisect_left(self._rooms, size)
        if place == len(self._rooms):
            return -(-pieces // (self._capacity // size)), self._capacity, None
        room = self._rooms[place]
        rows, items = self._by_room[room].pop()
        if not self._by_room[room]:
            del self._by_room[room], self._rooms[place]
        return rows, room, items

    def put(self, rows: int, room: int, items: _Items) -> None:
        """Put rows in; nothing to do for none."""
        if not rows:
            return
        if room not in self._by_room:
            insort(self._rooms, room)
            self._by_room[room] = []
        self._by_room[room].append((rows, items))

    def shapes(self) -> Iterator[Shape]:
        """All rows, the fullest first."""
        for room in self._rooms:
            for rows, items in self._by_room[room]:
                yield Shape(rows, _unrolled(items))


def _unrolled(items: _Items) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    while items is not None:
        items, size, times = items
        found.append((size, times))
    return tuple(reversed(found))
