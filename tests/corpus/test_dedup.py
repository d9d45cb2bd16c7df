import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayllm.corpus.overlap.exact import (
    DUPLICATE,
    IN_VALIDATION,
    KEPT,
    content_hash,
    find_duplicates,
    partition_count,
    partition_of,
)


def test_the_hash_ignores_case_and_white_space_only() -> None:
    assert content_hash("A  b\n\tC") == content_hash("a b c")
    assert content_hash("a b c") != content_hash("ab c")
    assert content_hash("a b c") != content_hash("a b c.")


def test_the_first_copy_stays_and_validation_wins() -> None:
    hashes = np.array([5, 5, 7, 7, 9, 9, 3], np.uint64)
    validation = np.array([0, 0, 0, 1, 1, 1, 0], bool)
    expected = [KEPT, DUPLICATE, IN_VALIDATION, KEPT, KEPT, DUPLICATE, KEPT]
    assert find_duplicates(hashes, validation).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=40), st.integers(1, 7))
def test_partitions_do_not_change_the_result(rows: list[tuple[int, bool]], count: int) -> None:
    hashes = np.array([value << 60 | value for value, _ in rows], np.uint64)
    validation = np.array([flag for _, flag in rows], bool)
    whole = find_duplicates(hashes, validation)
    parts = partition_of(hashes, count)
    pieces = np.full(len(rows), -1, np.int8)
    for partition in range(count):
        pieces[parts == partition] = find_duplicates(hashes[parts == partition], validation[parts == partition])
    assert pieces.tolist() == whole.tolist()
    survivors = hashes[whole == KEPT]
    assert sorted(survivors) == sorted(set(hashes.tolist()))


def test_partitions_grow_with_the_input_and_are_even() -> None:
    assert partition_count(0) == 1
    assert partition_count(10**12) == 117
    hashes = np.random.default_rng(0).integers(0, 2**64 - 1, 10_000, dtype=np.uint64)
    assert np.bincount(partition_of(hashes, 7), minlength=7).min() > 1200
