"""Which family predicts runs that it has not seen, how well, and whether it is to be believed.

In: mixtures, metrics, what is to be minimised. Out: for each family its held-out errors, and the family to use.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from rayllm.tune.law.log_linear import Losses, Mixtures
from rayllm.tune.law.surfaces import FAMILIES, Family

#: The metrics of one mixture to what is minimised, lowest best.
Score = Callable[[Float64[np.ndarray, " metrics"]], float]

#: Up to so many runs each is held out alone; of more, so many parts.
MAX_FOLDS = 30
#: A law is believed if it explains this much of the held-out variance and its ranking could not be chance.
LEAST_EXPLAINED, CHANCE = 0.25, 0.05


@dataclass(frozen=True)
class HeldOut:
    """How a family did on runs that it had not seen.

    Attributes:
        family: Its name.
        metric_errors: Root of the mean squared error of each metric.
        error: Root of the mean squared error of the objective.
        explained: Share of the objective's variance that was predicted; below 0, the mean is a better guess.
        rank_correlation: Spearman's, of the objective.
        p_value: How probable so high a correlation is by chance.
    """

    family: str
    metric_errors: tuple[float, ...]
    error: float
    explained: float
    rank_correlation: float
    p_value: float

    @property
    def believed(self) -> bool:
        """Whether predictions are worth more than a guess."""
        return self.explained >= LEAST_EXPLAINED and self.rank_correlation > 0 and self.p_value < CHANCE


@dataclass(frozen=True)
class Choice:
    """The family to use, and how all did.

    Attributes:
        family: The one to use.
        held_out: Its errors.
        all: Those of every family tried.
    """

    family: Family
    held_out: HeldOut
    all: tuple[HeldOut, ...]


def choose_family(
    mixtures: Mixtures,
    losses: Losses,
    counts: Float64[np.ndarray, " runs"],
    score: Score,
    seed: int,
    families: Sequence[Family] | None = None,
) -> Choice:
    """Cross-validate the families on the same folds.

    The one with the least error of the objective is used, unless an earlier one is within one standard error of it
    (Breiman et al. 1984, Classification and Regression Trees, section 3.4.3): of few runs, differences are mostly luck.

    Args:
        mixtures: One row for each different mixture.
        losses: Mean metrics of its runs.
        counts: How many runs a row stands for.
        score: What is minimised.
        seed: Of the folds, where there are more runs than folds.
        families: What to compare, in order of preference; by default all.
    """
    families = FAMILIES if families is None else families
    folds = _folds(len(mixtures), seed)
    masks = np.where(folds[None] == np.arange(folds.max() + 1)[:, None], 0.0, counts)
    true = np.asarray([score(row) for row in losses])
    found, squares = [], []
    for family in families:
        predicted = family.fit(mixtures, losses, masks).predict(mixtures)[folds, np.arange(len(mixtures))]
        objective = np.asarray([score(row) for row in predicted])
        found.append(_held_out(family.name, losses, predicted, true, objective))
        squares.append((objective - true) ** 2)
    least = int(np.argmin([one.error for one in found]))
    for index, one in enumerate(squares):
        excess = one - squares[least]
        if excess.mean() <= excess.std(ddof=1) / np.sqrt(len(excess)):
            return Choice(families[index], found[index], tuple(found))
    raise AssertionError("the best is within one standard error of itself")


def _folds(runs: int, seed: int) -> np.ndarray:
    if runs <= MAX_FOLDS:
        return np.arange(runs)
    return np.random.default_rng(seed).permutation(np.arange(runs) % MAX_FOLDS)


def _held_out(name: str, losses: Losses, predicted: Losses, true: np.ndarray, objective: np.ndarray) -> HeldOut:
    from scipy.stats import spearmanr

    error = float(((objective - true) ** 2).mean())
    varied = np.ptp(objective) > 0 and np.ptp(true) > 0
    ranks: Any = spearmanr(objective, true, alternative="greater") if varied else None
    return HeldOut(
        family=name,
        metric_errors=tuple(np.sqrt(((predicted - losses) ** 2).mean(0)).tolist()),
        error=error**0.5,
        explained=1 - error / max(float(true.var()), 1e-300),
        rank_correlation=float(ranks.statistic) if ranks else 0.0,
        p_value=float(ranks.pvalue) if ranks else 1.0,
    )
