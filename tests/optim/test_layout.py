"""The bookkeeping of matrices among ranks keeps its laws for any layout."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.optim.layout import (
    Matrix,
    Piece,
    assign_owners,
    fragments_of,
    matrices_of,
    moves_to_holders,
    moves_to_owners,
)

SPLITS = {"qkv.weight": (4, 2, 2)}


def flat_partitions(shapes: dict[str, tuple[int, ...]], ranks: int) -> list[list[Piece]]:
    """As ZeRO 1 and 2 have it: parameters one after another, cut into equal ranges."""
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    size = -(-total // ranks)
    pieces: list[list[Piece]] = [[] for _ in range(ranks)]
    start = 0
    for name, shape in shapes.items():
        stop = start + torch.Size(shape).numel()
        for rank in range(ranks):
            low, high = max(start, rank * size), min(stop, (rank + 1) * size)
            if low < high:
                pieces[rank].append(Piece(name, low - start, high - low, 0, low - rank * size))
        start = stop
    return pieces


def share_of_each(shapes: dict[str, tuple[int, ...]], ranks: int) -> list[list[Piece]]:
    """As ZeRO 3 has it: each parameter cut into equal ranges."""
    pieces: list[list[Piece]] = [[] for _ in range(ranks)]
    at = 0
    for name, shape in shapes.items():
        length = torch.Size(shape).numel()
        size = -(-length // ranks)
        for rank in range(ranks):
            low, high = min(length, rank * size), min(length, (rank + 1) * size)
            if low < high:
                pieces[rank].append(Piece(name, low, high - low, 0, at))
        at += size
    return pieces


def whole(shapes: dict[str, tuple[int, ...]], ranks: int) -> list[list[Piece]]:
    """As ZeRO 0 has it: everything everywhere."""
    return [
        [Piece(name, 0, torch.Size(shape).numel(), index, 0) for index, (name, shape) in enumerate(shapes.items())]
    ] * ranks


LAYOUTS = st.sampled_from([flat_partitions, share_of_each, whole])
SHAPES = st.lists(st.sampled_from([(8, 6), (4, 4), (3, 9), (5, 2), (2, 3, 4)]), min_size=1, max_size=9).map(
    lambda shapes: {
        f"layer{index}.{'qkv' if shape == (8, 6) else 'other'}.weight": shape for index, shape in enumerate(shapes)
    }
)


def test_fused_rows_are_separate_matrices() -> None:
    found = matrices_of({"a.qkv.weight": (8, 6), "b.weight": (3, 5)}, SPLITS)
    assert found == [
        Matrix("a.qkv.weight", 0, 4, 6),
        Matrix("a.qkv.weight", 24, 2, 6),
        Matrix("a.qkv.weight", 36, 2, 6),
        Matrix("b.weight", 0, 3, 5),
    ]


def test_more_than_two_dimensions_are_a_stack() -> None:
    assert matrices_of({"w": (2, 3, 4)}, {}) == [Matrix("w", 0, 3, 4), Matrix("w", 12, 3, 4)]


def test_splits_that_do_not_fill_the_parameter_are_found() -> None:
    with pytest.raises(AssertionError, match="has 9 rows"):
        matrices_of({"a.qkv.weight": (9, 6)}, SPLITS)


@settings(max_examples=100, deadline=None)
@given(shapes=SHAPES, ranks=st.integers(1, 5), layout=LAYOUTS)
def test_owners_get_every_element_once_and_holders_what_they_hold(shapes, ranks: int, layout) -> None:
    matrices = matrices_of(shapes, SPLITS)
    fragments = [fragments_of(pieces, matrices) for pieces in layout(shapes, ranks)]
    owners = assign_owners(matrices, fragments)
    counts = [torch.zeros(matrix.size) for matrix in matrices]
    for move in moves_to_owners(matrices, fragments, owners):
        assert move.target == owners[move.matrix]
        counts[move.matrix][move.start : move.start + move.length] += 1
    assert all((count == 1).all() for count in counts)
    back = moves_to_holders(fragments, owners)
    for rank, held in enumerate(fragments):
        arriving = {(move.matrix, move.start, move.length) for move in back if move.target == rank}
        assert arriving == {(part.matrix, part.start, part.length) for part in held}
    assert all(move.source == owners[move.matrix] for move in back)


@settings(max_examples=100, deadline=None)
@given(shapes=SHAPES, ranks=st.integers(1, 5), layout=LAYOUTS)
def test_work_is_shared_as_evenly_as_the_largest_matrix_allows(shapes, ranks: int, layout) -> None:
    matrices = matrices_of(shapes, SPLITS)
    fragments = [fragments_of(pieces, matrices) for pieces in layout(shapes, ranks)]
    work = [0] * ranks
    for matrix, owner in zip(matrices, assign_owners(matrices, fragments), strict=True):
        work[owner] += matrix.cost
    assert max(work) - min(work) <= max(matrix.cost for matrix in matrices)


def test_matrices_stay_where_they_lie_if_the_work_is_even() -> None:
    shapes = {f"layer{index}.weight": (4, 4) for index in range(6)}
    matrices = matrices_of(shapes, {})
    fragments = [fragments_of(pieces, matrices) for pieces in flat_partitions(shapes, 3)]
    owners = assign_owners(matrices, fragments)
    assert owners == [0, 0, 1, 1, 2, 2]
    assert all(move.source == move.target for move in moves_to_owners(matrices, fragments, owners))
