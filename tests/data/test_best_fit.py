"""Best-fit packing: nothing lost or doubled, only long documents cut, and as tight as packing piece by piece."""

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.data.packing.best_fit import RowTable, best_fit_shapes, pack_documents
from rayllm.data.packing.exact_fill import exact_fill_shapes
from rayllm.data.packing.shapes import Shape

document_lengths = st.lists(st.integers(1, 70), max_size=80)


def pack(lengths, seq_len) -> RowTable:
    sizes = np.asarray(lengths, np.int64)
    return pack_documents(np.cumsum(sizes) - sizes, int(sizes.sum()), seq_len)


def rows_of(table: RowTable) -> list[list[tuple[int, int]]]:
    pairs = list(zip(table.start.tolist(), table.length.tolist(), strict=True))
    edges = table.first_segment.tolist()
    return [pairs[a:b] for a, b in pairwise(edges)]


@settings(deadline=None)
@given(document_lengths, st.integers(1, 40))
def test_every_token_is_in_one_row_once(lengths, seq_len):
    table = pack(lengths, seq_len)
    held = [start + i for row in rows_of(table) for start, length in row for i in range(length)]
    assert sorted(held) == list(range(sum(lengths)))
    assert table.num_tokens == sum(lengths)


@settings(deadline=None)
@given(document_lengths, st.integers(1, 40))
def test_no_row_is_too_full_or_empty_and_only_long_documents_are_cut(lengths, seq_len):
    starts = (np.cumsum(lengths) - lengths).tolist()
    expected = [
        (start + cut, min(length - cut, seq_len))
        for start, length in zip(starts, lengths, strict=True)
        for cut in range(0, length, seq_len)
    ]
    rows = rows_of(pack(lengths, seq_len))
    assert all(0 < sum(length for _, length in row) <= seq_len for row in rows)
    assert sorted(segment for row in rows for segment in row) == sorted(expected)


def best_fit_decreasing(sizes, capacity) -> list[int]:
    """The room left in every row, by the textbook: one piece after the other, the longest first."""
    rooms: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        room = min(fitting, default=capacity)
        if fitting:
            rooms.remove(room)
        rooms.append(room - size)
    return sorted(rooms)


@settings(deadline=None)
@given(st.integers(1, 40).flatmap(lambda c: st.tuples(st.lists(st.integers(1, c), max_size=60), st.just(c))))
def test_packing_by_counts_is_best_fit_decreasing_to_the_row(drawn):
    sizes, capacity = drawn
    shapes = best_fit_shapes(np.bincount(np.asarray(sizes, np.int64), minlength=capacity + 1), capacity)
    rooms = [capacity - sum(size * times for size, times in shape.items) for shape in shapes for _ in range(shape.rows)]
    assert sorted(rooms) == best_fit_decreasing(sizes, capacity)


@settings(deadline=None)
@given(st.integers(1, 40).flatmap(lambda c: st.tuples(st.lists(st.integers(1, c), max_size=80), st.just(c))))
def test_exact_filling_places_every_piece_once(drawn):
    sizes, capacity = drawn
    counts = np.bincount(np.asarray(sizes, np.int64), minlength=capacity + 1)
    shapes = exact_fill_shapes(counts, capacity)
    placed = [size for rows, items in shapes for size, times in items for _ in range(rows * times)]
    assert sorted(placed) == sorted(sizes)
    assert all(rows > 0 and shape.tokens <= capacity for shape in shapes for rows in [shape.rows])


def test_exact_filling_ends_a_row_with_two_lengths_that_fit_it():
    # Rows of 10; four 5s would not fill with 4s and 6s left: 6 + 4 first, then 5 + 5.
    counts = np.bincount([6, 6, 5, 5, 4, 4], minlength=11)
    assert exact_fill_shapes(counts, 10) == [Shape(2, ((6, 1), (4, 1))), Shape(1, ((5, 2),))]


def test_short_documents_that_best_fit_leaves_gaps_with_are_filled_exactly():
    lengths = np.random.default_rng(0).normal(150, 40, 200_000).clip(60, 400).astype(np.int64)
    counts = np.bincount(lengths, minlength=1025)
    simple = sum(shape.rows for shape in best_fit_shapes(counts, 1024))
    table = pack(lengths, 1024)
    assert 1 - lengths.sum() / (simple * 1024) > 5e-3
    assert 1 - lengths.sum() / (table.num_rows * 1024) < 1e-3


def test_a_small_case_is_the_one_packed_by_hand():
    # Rows of 10; documents of 7, 4, 3, 23, 6. Of the fourth, 10 + 10 are full rows and 3 are left. 7 takes a 3, the
    # first in the stream; 6 takes the 4; the other 3 is alone.
    rows = rows_of(pack([7, 4, 3, 23, 6], 10))
    assert sorted(rows) == [[(0, 7), (11, 3)], [(14, 10)], [(24, 10)], [(34, 3)], [(37, 6), (7, 4)]]


def test_documents_of_one_length_take_their_places_in_the_order_of_the_stream():
    table = pack([5] * 8, 10)
    assert rows_of(table) == [[(0, 5), (5, 5)], [(10, 5), (15, 5)], [(20, 5), (25, 5)], [(30, 5), (35, 5)]]


@pytest.mark.parametrize("lengths", [[], [8], [8, 16], [1]])
def test_edges(lengths):
    table = pack(lengths, 8)
    assert table.num_rows == -(-sum(lengths) // 8)


def test_long_rows_sort_beyond_sixteen_bits():
    lengths = [70_000, 65_536, 3, 69_999]
    rows = rows_of(pack(lengths, 70_001))
    assert sorted(rows) == [[(0, 70_000)], [(70_000, 65_536), (135_536, 3)], [(135_539, 69_999)]]


def test_a_million_documents_take_seconds_and_next_to_no_padding():
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(6, 1.2, 1_000_000)).astype(np.int64)
    start = time.process_time()
    table = pack(lengths, 2048)
    assert time.process_time() - start < 3
    assert 1 - table.num_tokens / (table.num_rows * 2048) < 1e-3
