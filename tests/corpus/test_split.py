import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.corpus.card.histogram import histogram, merge, quantile
from rayllm.corpus.split import (
    OVER_CAP,
    TRAIN,
    VALIDATION,
    assign_split,
    document_keys,
    plan_bounds,
    plan_validation_bounds,
)

HASHES = np.random.default_rng(0).integers(0, 2**63, 5000, dtype=np.uint64)


def test_keys_are_uniform_and_change_with_the_seed() -> None:
    keys = document_keys(HASHES, 1)
    assert keys.min() >= 0
    assert keys.max() < 1
    assert np.abs(np.histogram(keys, 10, (0, 1))[0] - 500).max() < 120
    assert not np.array_equal(keys, document_keys(HASHES, 2))
    ascending = document_keys(np.arange(1000, dtype=np.uint64), 1)
    assert abs(np.corrcoef(ascending, np.arange(1000))[0, 1]) < 0.1


@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60, unique=True),
    st.sampled_from([0.0, 0.01, 0.3]),
    st.none() | st.integers(1, 6000),
    st.none() | st.integers(1, 6000),
)
def test_limits_hold_and_at_least_one_document_is_held_out(
    hashes: list[int], frac: float, validation_bytes: int | None, train_bytes: int | None
) -> None:
    keys = document_keys(np.array(hashes, np.uint64), 3)
    sizes = np.array([100 + value % 50 for value in hashes])
    bounds = plan_bounds(
        histogram(keys, sizes),
        float(keys.min()),
        heldout_frac=frac,
        validation_bytes=validation_bytes,
        train_bytes=train_bytes,
    )
    split = assign_split(keys, bounds)
    heldout = split == VALIDATION
    assert heldout.any() == (frac > 0)
    assert keys[heldout].max(initial=0) <= keys[~heldout].min(initial=1)
    assert train_bytes is None or sizes[split == TRAIN].sum() <= train_bytes
    if validation_bytes is not None and heldout.sum() > 1:
        assert sizes[heldout].sum() <= validation_bytes
    if train_bytes is None:
        assert not (split == OVER_CAP).any()


def test_a_limit_is_used_to_within_two_percent() -> None:
    keys = document_keys(HASHES, 1)
    sizes = np.full(5000, 100)
    bounds = plan_bounds(histogram(keys, sizes), float(keys.min()), heldout_frac=0.01, train_bytes=200_000)
    used = sizes[assign_split(keys, bounds) == TRAIN].sum()
    assert 196_000 <= used <= 200_000


def test_a_validation_source_is_taken_whole_or_up_to_its_limit() -> None:
    keys = document_keys(HASHES, 1)
    sizes = np.full(5000, 100)
    whole = assign_split(keys, plan_validation_bounds(histogram(keys, sizes), None))
    assert (whole == VALIDATION).all()
    part = assign_split(keys, plan_validation_bounds(histogram(keys, sizes), 50_000))
    assert 45_000 <= sizes[part == VALIDATION].sum() <= 50_000
    assert (part[part != VALIDATION] == OVER_CAP).all()


@given(st.lists(st.floats(1, 1e9), min_size=1, max_size=50), st.integers(0, 50))
def test_histograms_merge_and_their_quantiles_are_close(values: list[float], cut: int) -> None:
    array = np.array(values)
    ones = np.ones(len(values), np.int64)
    both = merge(histogram(array[:cut], ones[:cut]), histogram(array[cut:], ones[cut:]))
    assert both == histogram(array, ones)
    median = np.sort(array)[(len(values) + 1) // 2 - 1]
    assert quantile(both, 0.5) == pytest.approx(median, rel=0.016)
