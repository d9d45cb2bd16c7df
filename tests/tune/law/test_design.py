"""Points of a swarm: within bounds, spread out, the same for the same seed."""

import numpy as np
import pytest

from rayllm.core.errors import ConfigError
from rayllm.tune.law.design import Bounds, dirichlet_pool, fill_space

NATURAL = np.asarray([0.7, 0.2, 0.1])
UNIFORM = np.full(3, 1 / 3)
BOUNDS = Bounds(np.full(3, 0.05), np.asarray([0.9, 0.5, 0.9]))


def design(seed: int = 0, count: int = 10) -> np.ndarray:
    return fill_space(NATURAL, count, concentration=1.0, bounds=BOUNDS, tried=np.stack([NATURAL, UNIFORM]), seed=seed)


def nearest(points: np.ndarray) -> float:
    roots = np.sqrt(points)
    square = ((roots[:, None] - roots[None]) ** 2).sum(-1)
    return float(square[~np.eye(len(points), dtype=bool)].min())


def test_points_are_mixtures_within_the_bounds_in_the_resolution_of_trainings() -> None:
    points = design()
    assert points.shape == (10, 3)
    assert np.allclose(points.sum(1), 1, atol=1e-12)
    assert BOUNDS.hold(points).max() < 1 / 1024
    assert np.array_equal(points * 1024, np.round(points * 1024))


def test_points_are_farther_apart_than_random_ones() -> None:
    pool = dirichlet_pool(NATURAL, 1000, 1.0, BOUNDS, np.random.default_rng(1))
    random = np.median([nearest(pool[index : index + 10]) for index in range(0, 1000, 10)])
    assert nearest(design()) > 2 * random


def test_the_seed_decides_the_points() -> None:
    assert np.array_equal(design(3), design(3))
    assert not np.array_equal(design(3), design(4))


def test_points_lie_around_the_natural_shares() -> None:
    pool = dirichlet_pool(NATURAL, 2000, 2.0, Bounds(np.zeros(3), np.ones(3)), np.random.default_rng(0))
    assert np.allclose(pool.mean(0), NATURAL, atol=0.02)


def test_bounds_that_no_mixture_keeps_are_refused() -> None:
    with pytest.raises(ConfigError, match="cannot sum to 1"):
        Bounds(np.full(3, 0.4), np.ones(3))
    with pytest.raises(ConfigError, match=r"mixture\.max_epochs"):
        Bounds(np.zeros(3), np.full(3, 0.3))
