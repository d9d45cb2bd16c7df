"""The optimum of a surface keeps its bounds, and the pull draws it to the natural shares."""

import numpy as np
import pytest

from rayllm.tune.law.design import Bounds
from rayllm.tune.law.optimum import Region, minimise

NATURAL = np.asarray([0.6, 0.3, 0.1])
TARGET = np.asarray([0.25, 0.25, 0.5])
OPEN = Bounds(np.zeros(3), np.ones(3))


def valley(points: np.ndarray) -> np.ndarray:
    return np.stack([((points - TARGET) ** 2).sum(1), np.zeros(len(points))], 1)


def total(row: np.ndarray) -> float:
    return float(row.sum())


def search(bounds: Bounds = OPEN, pull: float = 0.0, smooth: bool = True, score=total) -> np.ndarray:
    return minimise(valley, score, Region(bounds, NATURAL, pull), smooth=smooth, seed=0)


@pytest.mark.parametrize(("smooth", "tolerance"), [(True, 1 / 1024), (False, 0.03)])
def test_the_lowest_point_is_found(smooth: bool, tolerance: float) -> None:
    assert np.abs(search(smooth=smooth) - TARGET).max() <= tolerance


def test_a_cap_holds_and_the_rest_is_best_within_it() -> None:
    found = search(Bounds(np.zeros(3), np.asarray([1.0, 1.0, 0.3])))
    assert found[2] <= 0.3
    assert np.abs(found - [0.35, 0.35, 0.3]).max() < 0.005


def test_the_pull_draws_the_proposal_to_the_natural_shares() -> None:
    distances = [np.abs(search(pull=pull) - NATURAL).sum() for pull in (0.0, 0.05, 1.0, 100.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.01


def test_the_worst_of_several_metrics_can_be_minimised_though_it_has_an_edge() -> None:
    def two(points: np.ndarray) -> np.ndarray:
        return np.stack([1 - points[:, 0], 1 - points[:, 1]], 1)

    found = minimise(two, lambda row: float(row.max()), Region(OPEN, NATURAL, 0.0), smooth=True, seed=0)
    assert np.abs(found - [0.5, 0.5, 0]).max() < 0.02
