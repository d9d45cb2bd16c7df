"""The family is chosen by what it predicts of runs that it has not seen."""

import numpy as np

from rayllm.tune.law.surfaces import FAMILIES
from rayllm.tune.law.validation import choose_family

SMOOTH = [family for family in FAMILIES if family.smooth]


def mean(values: np.ndarray) -> float:
    return float(values.mean())


def test_the_law_is_used_where_it_holds_and_is_believed() -> None:
    rng = np.random.default_rng(0)
    mixtures = rng.dirichlet(np.ones(3), 16)
    slopes = np.asarray([[-1.2, 0.1, 0.2], [0.3, -0.9, 0.1]])
    losses = 0.5 + np.exp(mixtures @ slopes.T) + 0.001 * rng.normal(size=(16, 2))
    choice = choose_family(mixtures, losses, np.ones(16), mean, 0)
    assert choice.family.name == "exponential law"
    assert choice.held_out.believed
    assert choice.held_out.rank_correlation > 0.9
    assert choice.held_out.error < 0.01
    assert {one.family for one in choice.all} == {family.name for family in FAMILIES}


def test_another_family_is_used_where_the_law_does_not_hold() -> None:
    rng = np.random.default_rng(1)
    mixtures = rng.dirichlet(np.ones(3), 30)
    losses = 1 + 2 * ((mixtures - 1 / 3) ** 2).sum(1, keepdims=True)
    choice = choose_family(mixtures, losses, np.ones(30), mean, 0, SMOOTH)
    assert choice.family.name == "Gaussian process"


def test_a_law_of_pure_noise_is_not_believed() -> None:
    rng = np.random.default_rng(2)
    believed = [
        choose_family(
            rng.dirichlet(np.ones(3), 12), 1 + 0.01 * rng.normal(size=(12, 2)), np.ones(12), mean, 0, SMOOTH
        ).held_out.believed
        for _ in range(20)
    ]
    assert sum(believed) <= 2


def test_many_runs_are_held_out_in_parts() -> None:
    rng = np.random.default_rng(3)
    mixtures = rng.dirichlet(np.ones(2), 70)
    losses = np.exp(mixtures @ np.asarray([[0.2], [-0.4]]))
    choice = choose_family(mixtures, losses, np.ones(70), mean, 0, SMOOTH[:1])
    assert choice.held_out.explained > 0.99
