"""The law finds planted coefficients, is not led astray by one bad run, and fits many replicas as it fits one."""

import numpy as np
import pytest

from rayllm.tune.law.log_linear import fit_log_linear
from rayllm.tune.law.surfaces import fit_process, fit_trees

FLOORS = np.asarray([0.8, 1.1])
SLOPES = np.asarray([[-1.5, -0.2, 0.3], [0.1, -1.2, -0.4]])


def runs(count: int = 15, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mixtures = rng.dirichlet(np.ones(3), count)
    losses = FLOORS + np.exp(mixtures @ SLOPES.T)
    return mixtures, losses * np.exp(noise * rng.normal(size=losses.shape))


def test_noiseless_losses_are_predicted_exactly_by_the_law_that_made_them() -> None:
    mixtures, _ = runs()
    losses = np.exp(mixtures @ SLOPES.T)
    plain = fit_log_linear(mixtures, losses, np.ones((1, 15)), floors=(0.0,))
    assert np.allclose(plain.floors, 0)
    assert np.abs(plain.slopes[0] - SLOPES).max() < 0.05  # the pull of the slopes towards each other
    assert np.abs(plain.predict(mixtures)[0] / losses - 1).max() < 0.01


def test_a_law_with_a_floor_beats_a_plain_one_where_there_is_a_floor() -> None:
    mixtures, losses = runs(20, noise=0.001)
    others = np.random.default_rng(5).dirichlet(np.ones(3), 50)
    truth = FLOORS + np.exp(others @ SLOPES.T)

    def error(floors: tuple[float, ...]) -> float:
        fitted = fit_log_linear(mixtures, losses, np.ones((1, 20)), floors)
        return float(np.abs(fitted.predict(others)[0] - truth).mean())

    assert error((0.0, 0.2, 0.4, 0.5, 0.55, 0.7)) < 0.5 * error((0.0,))


def test_one_run_that_went_wrong_hardly_moves_the_law() -> None:
    mixtures, losses = runs(noise=0.002)
    spoilt = losses.copy()
    spoilt[4] *= 1.5
    good = fit_log_linear(mixtures, losses, np.ones((1, 15)), (0.4,)).predict(mixtures)[0]
    bad = fit_log_linear(mixtures, spoilt, np.ones((1, 15)), (0.4,)).predict(mixtures)[0]
    assert np.abs(bad / good - 1).max() < 0.02


@pytest.mark.parametrize("fit", [fit_log_linear, fit_process, fit_trees])
def test_a_run_without_weight_has_no_say_and_replicas_are_fits_of_their_own(fit) -> None:
    mixtures, losses = runs(noise=0.005)
    masks = np.ones((2, 15))
    masks[1, 7] = 0
    spoilt = losses.copy()
    spoilt[7] *= 0.5
    both = fit(mixtures, spoilt, masks).predict(mixtures)
    assert both.shape == (2, 15, 2)
    alone = fit(mixtures[masks[1] > 0], losses[masks[1] > 0], np.ones((1, 14))).predict(mixtures)[0]
    assert np.abs(both[1] / alone - 1).max() < 2e-3
    assert np.abs(both[0] / both[1] - 1).max() > 5e-3
