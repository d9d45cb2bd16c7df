"""Which settings mattered: what one would lose by not knowing each of them.

Two views, neither of them proof: the rank correlation of a setting with the objective, which sees only what rises or
falls throughout, and a random forest that predicts the objective of trials it has not seen, with one setting shuffled
at a time. How well the forest predicts at all is told beside it: below about a half, its shares say little.
"""

from dataclasses import dataclass

import numpy as np

from rayllm.report.sweep.axes import Axis, axes_of
from rayllm.report.sweep.records import SweepRecords

#: Fewer trials than this tell nothing of several settings.
MIN_TRIALS = 8
FOLDS, TREES, SHUFFLES = 5, 100, 5


@dataclass(frozen=True)
class Importance:
    """What a setting did.

    Attributes:
        axis: The setting.
        correlation: Spearman's, with the objective; ``None`` for what is no number. Below 0: more is better.
        share: Of what the forest loses when each setting is shuffled in turn, all shares summing to 1.
    """

    axis: Axis
    correlation: float | None
    share: float


@dataclass(frozen=True)
class Importances:
    """What all settings did.

    Attributes:
        settings: Most important first.
        explained: R² of the forest on trials that it has not seen.
        trials: How many trials it rests on.
    """

    settings: tuple[Importance, ...]
    explained: float
    trials: int


def importances(records: SweepRecords) -> Importances | None:
    """The importance of every setting; ``None`` if too few trials came to their end.

    Source: Breiman 2001, Random Forests, section 10, on held-out folds.
    """
    rows: list[list[float]] = []
    values: list[float] = []
    axes = axes_of(records.results)
    for result in records.finished:
        places, value = [axis.place(result.settings) for axis in axes], records.value(result)
        if value is not None and all(place is not None for place in places):
            rows.append([place for place in places if place is not None])
            values.append(value)
    if len(rows) < MIN_TRIALS or not axes or len(set(values)) < 2:
        return None
    table, target = np.array(rows), np.array(values)
    losses, explained = _shuffled_losses(table, _ranks(target))
    total = losses.sum()
    shares = losses / total if total else losses
    found = [
        Importance(axis, _correlation(axis, table[:, column], target), float(shares[column]))
        for column, axis in enumerate(axes)
    ]
    return Importances(tuple(sorted(found, key=lambda one: -one.share)), explained, len(rows))


def _shuffled_losses(table: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """What each shuffled column adds to the squared error on held-out folds, at least 0, and the forest's R² there."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    rng = np.random.default_rng(0)
    error, added = 0.0, np.zeros(table.shape[1])
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(table):
        forest = RandomForestRegressor(TREES, random_state=0, n_jobs=1).fit(table[train], target[train])
        plain = _squared_error(forest.predict(table[test]), target[test])
        error += plain
        for column in range(table.shape[1]):
            for _ in range(SHUFFLES):
                shuffled = table[test].copy()
                shuffled[:, column] = rng.choice(table[:, column], len(test))
                added[column] += (_squared_error(forest.predict(shuffled), target[test]) - plain) / SHUFFLES
    return np.maximum(added, 0.0), 1 - error / float(((target - target.mean()) ** 2).sum())


def _squared_error(predicted: np.ndarray, target: np.ndarray) -> float:
    return float(((predicted - target) ** 2).sum())


def _ranks(target: np.ndarray) -> np.ndarray:
    """Ranks in place of values: one trial that diverged is not the whole story."""
    from scipy.stats import rankdata

    return rankdata(target)


def _correlation(axis: Axis, places: np.ndarray, target: np.ndarray) -> float | None:
    if axis.kind == "choice" or len(set(places)) < 2:
        return None
    return float(np.corrcoef(_ranks(places), _ranks(target))[0, 1])
