"""The mixture that a surface says is best, within bounds and near to the natural shares.

In: a fitted surface, the objective, the bounds. Out: the mixture, and how sure it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from rayllm.tune.law.design import Bounds, Points, Shares, dirichlet_pool, rounded
from rayllm.tune.law.log_linear import Losses
from rayllm.tune.law.validation import Score

#: Random mixtures that the search begins with, the best of them that it goes on from, and steps of a search.
CANDIDATES, STARTS, STEPS = 2048, 6, 60
#: Of a surface with steps the mean of the best mixtures is taken. Source: RegMix, arXiv:2407.01492, section 3.3.
BEST_OF_STEPPED = 32
#: For derivatives.
DELTA = 1e-5
#: Shares are never below this in a logarithm.
TINY = 1e-9

Predict = Callable[[Points], Losses]


@dataclass(frozen=True)
class Region:
    """Where to look.

    Attributes:
        bounds: No proposal lies outside.
        natural: Natural shares.
        pull: Cost of a nat of divergence from them.
    """

    bounds: Bounds
    natural: Shares
    pull: float

    def cost(self, points: Points) -> Float64[np.ndarray, " points"]:
        """The pull's part of the objective: Kullback-Leibler divergence from the natural shares, times its price."""
        held = np.maximum(points, TINY)
        return self.pull * (held * np.log(held / np.maximum(self.natural, TINY))).sum(1)


def minimise(predict: Predict, score: Score, region: Region, *, smooth: bool, seed: int) -> Shares:
    """The best mixture of a surface, in the resolution that trainings have.

    Args:
        predict: The surface: (points, domains) → (points, metrics).
        score: What is minimised.
        region: Where to look.
        smooth: Whether gradients lead anywhere; else random candidates alone are compared.
        seed: Of the candidates.
    """
    rng = np.random.default_rng(seed)
    near = dirichlet_pool(region.natural, CANDIDATES // 2, 2.0, region.bounds, rng)
    wide = dirichlet_pool(np.full(len(region.natural), 1 / len(region.natural)), CANDIDATES // 2, 1, region.bounds, rng)
    pool = np.concatenate([near, wide])
    values = objective_of(predict, score, region, pool)
    best = pool[np.argsort(values, kind="stable")]
    if not smooth:
        return _within(best[:BEST_OF_STEPPED].mean(0), region.bounds)
    found = [descend(predict, score, region, start) for start in best[:STARTS]]
    return _within(found[int(np.argmin(objective_of(predict, score, region, np.asarray(found))))], region.bounds)


def objective_of(predict: Predict, score: Score, region: Region, points: Points) -> Float64[np.ndarray, " points"]:
    """Predicted objective with the pull's part."""
    return np.asarray([score(row) for row in predict(points)]) + region.cost(points)


def descend(predict: Predict, score: Score, region: Region, start: Shares) -> Shares:
    """Sequential quadratic programming from one start; the start itself if nothing better is found.

    Source: Kraft 1988, A software package for sequential quadratic programming (scipy's SLSQP).
    """
    from scipy.optimize import minimize

    def value(point: Shares) -> float:
        return float(objective_of(predict, score, region, point[None])[0])

    def slope(point: Shares) -> Shares:
        steps = DELTA * np.eye(len(point))
        both = objective_of(predict, score, region, np.concatenate([point + steps, point - steps]))
        return (both[: len(point)] - both[len(point) :]) / (2 * DELTA)

    low, high = region.bounds.low, region.bounds.high
    found = minimize(
        value,
        start,
        jac=slope,
        method="SLSQP",
        bounds=list(zip(low, high, strict=True)),
        constraints={"type": "eq", "fun": lambda point: point.sum() - 1, "jac": np.ones_like},
        options={"maxiter": STEPS, "ftol": 1e-9},
    )
    point = np.clip(found.x, low, high)
    point = point / point.sum()
    return point if value(point) < value(start) else start


def _within(point: Shares, bounds: Bounds) -> Shares:
    """The nearest mixture of the trainings' resolution; where rounding leaves the bounds, pulled off them a little."""
    middle = bounds.low + (1 - bounds.low.sum()) * (bounds.high - bounds.low) / (bounds.high - bounds.low).sum()
    best = rounded(point[None])
    for share in (0.002, 0.005, 0.01, 0.02):
        if bounds.hold(best)[0] <= 0:
            break
        best = rounded(((1 - share) * point + share * middle)[None])
    return best[0]
