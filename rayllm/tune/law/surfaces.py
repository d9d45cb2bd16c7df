"""What could stand in for the trainings: families of functions from a mixture to the metrics, all fitted alike.

In: mixtures, metrics, how much each run counts in each replica. Out: a ``Surface`` for every replica at once, so that
cross-validation (a run's weight is 0) and the bootstrap (random weights) are the same call. One line in ``FAMILIES``
for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64

from rayllm.tune.law.log_linear import Losses, Mixtures, Predictions, Replicas, fit_log_linear

#: Of the Gaussian process: length scales (Hellinger's distance of any two mixtures is at most 1.4) and shares of noise.
LENGTHS, NOISES = (0.25, 0.5, 1.0, 2.0), (1e-3, 1e-2, 1e-1, 0.5)
#: Variance of the linear part over that of the rest, before any data.
TREND = 10.0
#: A run that is left out counts so little.
LEAST_WEIGHT = 1e-6
#: Trees for so few points: shallow, small leaves. Source: RegMix (arXiv:2407.01492) boosts trees over 512 runs; these
#: are for tens.
TREES: dict[str, Any] = {
    "early_stopping": False,
    "max_iter": 60,
    "learning_rate": 0.15,
    "max_leaf_nodes": 4,
    "min_samples_leaf": 2,
}


class Surface(Protocol):
    """Fitted functions."""

    def predict(self, mixtures: Mixtures) -> Predictions:
        """The metrics of some mixtures by every replica."""
        ...


@dataclass(frozen=True)
class Family:
    """A kind of surface.

    Attributes:
        name: Its name in tables.
        fit: Makes one of runs.
        smooth: Whether a gradient leads to its minimum.
    """

    name: str
    fit: Callable[[Mixtures, Losses, Replicas], Surface]
    smooth: bool = True


@dataclass(frozen=True)
class _Process:
    roots: Mixtures
    lengths: Float64[np.ndarray, "replicas metrics"]
    means: Float64[np.ndarray, "replicas metrics"]
    coefficients: Float64[np.ndarray, "replicas metrics runs"]

    def predict(self, mixtures: Mixtures) -> Predictions:
        found = np.broadcast_to(self.means[:, None], (len(self.means), len(mixtures), self.means.shape[1])).copy()
        for length in np.unique(self.lengths):
            kernel = _kernel(np.sqrt(np.clip(mixtures, 0, None)), self.roots, length)
            mine = np.where((self.lengths == length)[..., None], self.coefficients, 0.0)
            found += np.einsum("pn,rmn->rpm", kernel, mine)
        return np.exp(found)


def fit_process(mixtures: Mixtures, losses: Losses, replicas: Replicas) -> Surface:
    """A Gaussian process over the roots of the weights, for the logarithm of each metric, with a linear part.

    Length scale and noise are those of greatest marginal likelihood on a grid; the amplitude is profiled out.

    Source: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, sections 2.7 and 5.4.1.
    """
    roots, logs = np.sqrt(mixtures), np.log(losses)
    counts = np.maximum(replicas, LEAST_WEIGHT)
    means = (counts @ logs) / counts.sum(1, keepdims=True)
    centred = logs[None] - means[:, None]  # replicas, runs, metrics
    present = replicas > 0
    best: dict[str, np.ndarray] = {"score": np.full(means.shape, np.inf), "length": np.zeros(means.shape)}
    best["coefficients"] = np.zeros((*means.shape, len(mixtures)))
    for length in LENGTHS:
        kernel = _kernel(roots, roots, length)
        for noise in NOISES:
            cover = kernel[None] + np.eye(len(mixtures)) * (noise / counts)[:, None]
            solved = np.linalg.solve(cover, centred)
            power = (np.where(present[..., None], centred * solved, 0)).sum(1)
            spread = np.linalg.slogdet(cover)[1] + (np.log(counts) * ~present).sum(1)
            runs = present.sum(1)[:, None]
            score = runs * np.log(np.maximum(power, 1e-300) / runs) + spread[:, None]
            better = score < best["score"]
            best["score"] = np.where(better, score, best["score"])
            best["length"] = np.where(better, length, best["length"])
            best["coefficients"] = np.where(better[..., None], solved.swapaxes(1, 2), best["coefficients"])
    return _Process(roots, best["length"], means, best["coefficients"])


def _kernel(first: Mixtures, second: Mixtures, length: float) -> Float64[np.ndarray, "first second"]:
    square = ((first[:, None] - second[None]) ** 2).sum(-1)
    return np.exp(-0.5 * square / length**2) + TREND * (first**2) @ (second**2).T


@dataclass(frozen=True)
class _Forest:
    trees: list[list[Any]]  # replicas, metrics

    def predict(self, mixtures: Mixtures) -> Predictions:
        return np.exp(np.stack([np.stack([tree.predict(mixtures) for tree in row], 1) for row in self.trees]))


def fit_trees(mixtures: Mixtures, losses: Losses, replicas: Replicas) -> Surface:
    """Boosted trees for the logarithm of each metric."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def grow(target: np.ndarray, counts: np.ndarray) -> Any:
        used = counts > 0
        model = HistGradientBoostingRegressor(**TREES, random_state=0)
        return model.fit(mixtures[used], target[used], sample_weight=counts[used])

    return _Forest([[grow(np.log(column), counts) for column in losses.T] for counts in replicas])


def _plain(mixtures: Mixtures, losses: Losses, replicas: Replicas) -> Surface:
    return fit_log_linear(mixtures, losses, replicas, floors=(0.0,))


#: In order of preference: of two that cannot be told apart the earlier is taken.
FAMILIES = (
    Family("exponential law", fit_log_linear),
    Family("log-linear law", _plain),
    Family("Gaussian process", fit_process),
    Family("boosted trees", fit_trees, smooth=False),
)
