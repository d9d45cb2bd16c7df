import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.corpus.overlap.clusters import (
    NEAR_DUPLICATE,
    NEAR_VALIDATION,
    connected_components,
    document_numbers,
    find_losses,
    find_pairs,
    places,
)

EDGES = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=40)


def plain_components(count: int, edges: list[tuple[int, int]]) -> list[int]:
    """The smallest node that can be reached from each, by walking."""
    smallest = []
    for node in range(count):
        reached, border = {node}, [node]
        while border:
            here = border.pop()
            near = {b for a, b in edges if a == here} | {a for a, b in edges if b == here}
            border += near - reached
            reached |= near
        smallest.append(min(reached))
    return smallest


def pair_array(pairs: list[tuple[int, int]]) -> np.ndarray:
    return np.array(pairs, np.int64).reshape(-1, 2)


@given(EDGES)
def test_components_are_those_found_by_walking(edges: list[tuple[int, int]]) -> None:
    first, second = pair_array(edges).T
    assert connected_components(16, first, second).tolist() == plain_components(16, edges)


@pytest.mark.parametrize("seed", range(3))
def test_long_chains_in_random_order_are_one_component(seed: int) -> None:
    nodes = np.random.default_rng(seed).permutation(100_000)
    assert not connected_components(len(nodes), nodes[:-1], nodes[1:]).any()


def test_equal_hashes_of_one_band_join_documents_and_of_two_bands_do_not() -> None:
    bands = np.array([0, 0, 1, 1, 0], np.uint16)
    hashes = np.array([7, 8, 7, 7, 7], np.uint64)
    documents = np.array([5, 6, 1, 2, 3], np.int64)
    assert find_pairs(bands, hashes, documents).tolist() == [[3, 5], [1, 2]]
    assert find_pairs(0, hashes, documents).tolist() == [[1, 2], [2, 3], [3, 5]]
    assert find_pairs(bands[:0], hashes[:0], documents[:0]).shape == (0, 2)


def test_a_document_that_comes_twice_is_no_pair_of_itself() -> None:
    assert find_pairs(0, np.array([7, 7, 7], np.uint64), np.array([4, 4, 9], np.int64)).tolist() == [[4, 9]]


def test_pairs_grow_with_the_bucket_not_with_its_square() -> None:
    pairs = find_pairs(3, np.zeros(100_000, np.uint64), np.random.default_rng(0).permutation(100_000))
    assert len(pairs) == 99_999
    assert find_losses(pairs).documents.tolist() == list(range(1, 100_000))


def test_validation_survives_and_then_the_first() -> None:
    rows = np.array([3, 1, 2, 0])
    numbers = document_numbers(1, rows, np.array([False, False, True, True]))
    earlier = document_numbers(0, np.array([9]), np.array([False]))
    train_3, train_1, validation_2, validation_0 = numbers.tolist()
    assert validation_0 < validation_2 < earlier[0] < train_1 < train_3
    losses = find_losses(pair_array([(train_3, train_1), (train_1, earlier[0]), (validation_2, validation_0)]))
    assert losses.documents.tolist() == [validation_2, train_1, train_3]
    assert losses.reasons.tolist() == [NEAR_DUPLICATE] * 3
    assert losses.survivors.tolist() == [validation_0, earlier[0], earlier[0]]
    losses = find_losses(pair_array([(train_3, train_1), (train_1, validation_2), (validation_2, validation_0)]))
    assert losses.documents.tolist() == [validation_2, train_1, train_3]
    assert losses.reasons.tolist() == [NEAR_DUPLICATE, NEAR_VALIDATION, NEAR_VALIDATION]


def test_no_pairs_lose_nothing() -> None:
    losses = find_losses(np.empty((0, 2), np.int64))
    assert len(losses.documents) == len(losses.reasons) == len(losses.survivors) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 9)), max_size=40), st.randoms())
def test_neither_order_nor_division_of_the_work_changes_the_losses(entries: list[tuple[int, int, int]], random) -> None:
    def losses(groups: list[list[tuple[int, int, int]]]) -> list[tuple[int, ...]]:
        pairs = []
        for group in groups:
            columns = np.array(group, np.int64).reshape(-1, 3)
            pairs.append(find_pairs(columns[:, 0].astype(np.uint16), columns[:, 1].astype(np.uint64), columns[:, 2]))
        found = find_losses(np.concatenate(pairs)) if pairs else find_losses(np.empty((0, 2), np.int64))
        return list(zip(found.documents.tolist(), found.reasons.tolist(), found.survivors.tolist(), strict=True))

    whole = losses([entries])
    shuffled = list(entries)
    random.shuffle(shuffled)
    # One task for each partition of (band, hash), in any order.
    divided = [[entry for entry in shuffled if (entry[0] + entry[1]) % 3 == part] for part in (2, 0, 1)]
    assert losses(divided) == losses([shuffled]) == whole


@given(st.integers(0, 2**30 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5), st.booleans())
def test_numbers_say_part_and_row(part: int, rows: list[int], validation: bool) -> None:
    numbers = document_numbers(part, np.array(rows), np.full(len(rows), validation))
    assert (numbers >= 0).all()
    parts, found = places(numbers)
    assert parts.tolist() == [part] * len(rows)
    assert found.tolist() == rows


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="out of range"):
        document_numbers(1 << 30, np.array([0]), np.array([True]))
    with pytest.raises(ValueError, match="out of range"):
        document_numbers(0, np.array([1 << 32]), np.array([True]))
