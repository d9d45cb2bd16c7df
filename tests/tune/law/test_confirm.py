"""Paired comparisons agree with the textbook, and cancel what a seed gives to all mixtures."""

import numpy as np
import pytest
from scipy import stats

from rayllm.core.errors import RunFailed
from rayllm.tune.law.confirm import Comparison, Measured

RNG = np.random.default_rng(0)


def block(mixtures: dict[str, float], seeds: range, noise: float, common: float = 0.0) -> list[Measured]:
    shifts = {seed: RNG.normal(0, common) if common else 0.0 for seed in seeds}
    return [
        Measured(name, seed, value + shifts[seed] + RNG.normal(0, noise))
        for seed in seeds
        for name, value in mixtures.items()
    ]


def test_two_mixtures_at_the_same_seeds_give_the_paired_t_test() -> None:
    runs = block({"a": 1.0, "b": 1.1}, range(6), 0.05)
    first, second = ([run.value for run in runs if run.mixture == name] for name in "ab")
    found = Comparison(runs, 0.95).difference("a", "b")
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert found.mean == pytest.approx(np.mean(first) - np.mean(second))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.freedom == 5


def test_what_a_seed_gives_to_all_mixtures_cancels() -> None:
    runs = block({"a": 1.0, "b": 1.02, "c": 1.05}, range(2), 0.001, common=1.0)
    found = Comparison(runs, 0.95).difference("a", "b")
    assert found.better
    assert found.noise is not None
    assert found.noise < 0.005
    assert found.freedom == 2


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for _ in range(400):
        runs = [Measured("natural", 0, RNG.normal()), *block({"a": 0.0, "natural": 0, "uniform": 0}, range(1, 3), 1.0)]
        found = Comparison(runs, 0.9).difference("a", "natural")
        held += found.low <= 0 <= found.high
    assert 0.85 < held / 400 < 0.95


def test_without_a_second_seed_nothing_is_better() -> None:
    found = Comparison(block({"a": 0.0, "b": 1.0}, range(1), 0.0), 0.95).difference("a", "b")
    assert found.noise is None
    assert not found.better


def test_mixtures_without_a_common_seed_are_not_compared() -> None:
    runs = [*block({"a": 0.0, "b": 0.0}, range(2), 0.1), *block({"c": 0.0, "d": 0.0}, range(5, 7), 0.1)]
    with pytest.raises(RunFailed, match="no seed in common"):
        Comparison(runs, 0.95).difference("a", "c")
    with pytest.raises(RunFailed, match="no training of the mixture 'x'"):
        Comparison(runs, 0.95).difference("x", "c")
