"""From the trainings so far to the mixture to try next, with how sure the law is of it.

In: mixtures and their metrics. Out: a ``Proposal``: the family used, its optimum, bootstrap intervals of the optimum
and of its gains.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from rayllm.core.errors import RunFailed
from rayllm.core.rng import derive_seed
from rayllm.tune.law.design import Bounds, Shares
from rayllm.tune.law.log_linear import LogLinear, Losses, Mixtures, Replicas
from rayllm.tune.law.optimum import Region, descend, minimise
from rayllm.tune.law.runs import Problem
from rayllm.tune.law.surfaces import Surface
from rayllm.tune.law.validation import Choice, choose_family

#: Replicas of a family that has no gradient: each costs an ensemble of trees and a search among candidates.
STEPPED_REPLICAS = 20
#: How far a proposal may leave the range of a domain's shares that were tried, as a part of that range. Without it, an
#: optimum outside of the first round's points, which lie around the natural shares, would never be reached.
BEYOND = 0.25


@dataclass(frozen=True)
class Gain:
    """How much lower the objective is predicted to be than another mixture's, with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Proposal:
    """What the law says.

    Attributes:
        choice: The family used, and how well each predicts.
        surface: The fitted family, of one replica.
        mixture: The proposal.
        low: Lower ends of the bootstrap intervals of the optimum's shares.
        high: Upper ends of them.
        predicted: Metrics of the proposal, by the law.
        gains: Predicted gains over other mixtures, by name.
        runs: Trainings that the law rests on.
    """

    choice: Choice
    surface: Surface
    mixture: Shares
    low: Shares
    high: Shares
    predicted: dict[str, float]
    gains: dict[str, Gain]
    runs: int

    @property
    def law(self) -> LogLinear | None:
        """Coefficients, if the family used is a law."""
        return self.surface if isinstance(self.surface, LogLinear) else None


def propose(
    problem: Problem,
    mixtures: Mixtures,
    losses: Losses,
    counts: Float64[np.ndarray, " mixtures"],
    others: Mapping[str, Shares],
    number: int,
) -> Proposal:
    """Fit, compare families, and find the optimum.

    The optimum is looked for between the least and the greatest share of each domain that was tried, and a little
    beyond: a law of few points knows nothing far from them, and the next round's points are around the proposal.

    Args:
        problem: What the law is asked.
        mixtures: Different mixtures.
        losses: Mean metrics of each.
        counts: Trainings of each.
        others: Mixtures to compare the proposal with.
        number: Of the round; shapes the draws.

    Raises:
        RunFailed: If there are too few trainings for a law.
    """
    needed = len(problem.sizes) + 2
    if len(mixtures) < needed:
        raise RunFailed(
            f"{len(mixtures)} trainings are too few for a law of {len(problem.sizes)} domains",
            why=f"it takes at least {needed} mixtures whose training finished",
            fix="see in trials.jsonl why the others failed, then run the same command again",
        )
    seed = derive_seed(problem.sweep_seed, "law", number)
    choice = choose_family(mixtures, losses, counts, problem.score, seed)
    family, region = choice.family, _region(problem, mixtures)
    surface = family.fit(mixtures, losses, counts[None])
    best = minimise(lambda p: surface.predict(p)[0], problem.score, region, smooth=family.smooth, seed=seed)
    count = problem.config.bootstraps if family.smooth else STEPPED_REPLICAS
    shaken = family.fit(mixtures, losses, bootstrap_weights(counts, count, seed))
    optima = np.asarray([_optimum(problem, shaken, index, region, best, family.smooth) for index in range(count)])
    low, high = np.quantile(optima, _ends(problem), axis=0)
    return Proposal(
        choice=choice,
        surface=surface,
        mixture=best,
        low=np.minimum(low, best),
        high=np.maximum(high, best),
        predicted=dict(zip(problem.metrics, surface.predict(best[None])[0, 0].tolist(), strict=True)),
        gains={name: _gain(problem, surface, shaken, best, other) for name, other in others.items()},
        runs=int(counts.sum()),
    )


def bootstrap_weights(counts: Float64[np.ndarray, " runs"], replicas: int, seed: int) -> Replicas:
    """Random weights of the runs, each row summing to the number of trainings.

    No run is ever left out, so that a law of few runs can always be fitted.

    Source: Rubin 1981, The Bayesian Bootstrap, Annals of Statistics 9(1).
    """
    return np.random.default_rng(seed).dirichlet(counts, replicas) * counts.sum()


def _region(problem: Problem, mixtures: Mixtures) -> Region:
    bounds = problem.bounds
    least, greatest = mixtures.min(0), mixtures.max(0)
    beyond = BEYOND * (greatest - least)
    # Natural or uniform weights may themselves lie outside of floors and caps.
    low = np.clip(least - beyond, bounds.low, bounds.high)
    high = np.clip(greatest + beyond, bounds.low, bounds.high)
    inside = Bounds(low, high) if low.sum() <= 1 <= high.sum() else bounds
    return Region(inside, problem.natural, problem.config.pull)


def _optimum(problem: Problem, shaken: Surface, index: int, region: Region, start: Shares, smooth: bool) -> Shares:
    def predict(points: Mixtures) -> Losses:
        return _one(shaken, index).predict(points)[0]

    if smooth:
        return descend(predict, problem.score, region, start)
    return minimise(predict, problem.score, region, smooth=False, seed=index)


@dataclass(frozen=True)
class _Replica:
    surface: Surface
    index: int

    def predict(self, mixtures: Mixtures) -> Float64[np.ndarray, "one points metrics"]:
        return self.surface.predict(mixtures)[self.index : self.index + 1]


def _one(shaken: Surface, index: int) -> Surface:
    if isinstance(shaken, LogLinear):  # a slice of the arrays: a hundred times faster than predicting by all replicas
        return LogLinear(shaken.floors[index : index + 1], shaken.slopes[index : index + 1])
    return _Replica(shaken, index)


def _gain(problem: Problem, surface: Surface, shaken: Surface, best: Shares, other: Shares) -> Gain:
    both = np.stack([other, best])

    def gains(predicted: Losses) -> float:
        return problem.score(predicted[0]) - problem.score(predicted[1])

    low, high = np.quantile([gains(replica) for replica in shaken.predict(both)], _ends(problem))
    mean = gains(surface.predict(both)[0])
    return Gain(mean, min(float(low), mean), max(float(high), mean))


def _ends(problem: Problem) -> tuple[float, float]:
    outside = (1 - problem.config.confidence) / 2
    return outside, 1 - outside
