"""Rows filled to the last token, for lengths that best-fit decreasing fills badly.

In: a histogram of lengths. Out: ``Shape``s, as of ``best_fit``. Best-fit decreasing puts as many pieces of one length
into a row as it has room for, and learns only later whether anything fits the rest. Where all pieces are short
(answers, conversations) and none is very short, often nothing does: 2 % of all positions are padding with rows of 512
tokens and GSM8K's problems. Here a row begins with the longest pieces, and as soon as one or two of the lengths that
are left fill it exactly, they do: 0.1 %.

Source: Gupta and Ho 1999, A new heuristic algorithm for the one-dimensional bin-packing problem, Production Planning
and Control 10(6) (row by row, the longest piece first, the least slack); here on counts, and with two pieces to end.
"""

from bisect import bisect_right

import numpy as np
from jaxtyping import Int64

from rayllm.data.packing.shapes import Shape


def exact_fill_shapes(counts: Int64[np.ndarray, " sizes"], capacity: int) -> list[Shape]:
    """Fill rows over a histogram of lengths, each as exactly as can be.

    Args:
        counts: ``counts[n]`` pieces of length n; lengths from 1 to ``capacity``.
        capacity: Tokens of a row.

    Returns:
        Every piece in some row.
    """
    left = np.zeros(capacity + 1, np.int64)
    left[: len(counts)] = counts
    present = np.flatnonzero(left).tolist()
    shapes: list[Shape] = []
    while present:
        items = _fill_row(left, present, capacity)
        rows = min(int(left[size]) // times for size, times in items.items())
        for size, times in items.items():
            left[size] -= rows * times
        present = [size for size in present if left[size]]
        shapes.append(Shape(rows, tuple(sorted(items.items(), reverse=True))))
    return shapes


def _fill_row(left: Int64[np.ndarray, " sizes"], present: list[int], capacity: int) -> dict[int, int]:
    """The lengths in one row, each with how often it comes.

    Args:
        left: How many pieces of each length there are; the same again afterwards.
        present: Lengths of which there are any, ascending.
        capacity: Tokens of the row.
    """
    items: dict[int, int] = {}
    room = capacity
    while sizes := (_exactly(left, room, present[-1]) if items else ()) or _longest(left, present, room):
        for size in sizes:
            items[size] = items.get(size, 0) + 1
            left[size] -= 1
            room -= size
    for size, times in items.items():
        left[size] += times
    return items


def _exactly(left: Int64[np.ndarray, " sizes"], room: int, longest: int) -> tuple[int, ...]:
    """One or two lengths that sum to the room; of several pairs the one that lasts for the most rows."""
    if room <= longest and left[room]:
        return (room,)
    half = room // 2
    if half == 0 or room > 2 * longest:
        return ()
    rows = np.minimum(left[1 : half + 1], left[room - half : room][::-1])
    if room % 2 == 0:
        rows[-1] = left[half] // 2
    best = int(rows.argmax())
    return (room - best - 1, best + 1) if rows[best] else ()


def _longest(left: Int64[np.ndarray, " sizes"], present: list[int], room: int) -> tuple[int, ...]:
    """The longest length that fits; nothing if none does."""
    place = bisect_right(present, room) - 1
    while place >= 0 and not left[present[place]]:
        place -= 1
    return (present[place],) if place >= 0 else ()
