"""The law itself: bits per byte of a validation domain as ``c + exp(t . w)`` of the mixture's weights.

In: mixtures, what was measured on them, how much each run counts. Out: floors c and slopes t. Since weights sum to 1,
a constant beside ``t . w`` is contained in t. For a given c the rest is a generalised linear model, so the fit is
exhaustive in c and convex-like in t: no random starts, and many fits (folds, bootstraps) are made as one batch.

Source: Ye et al. 2024, Data Mixing Laws, arXiv:2403.16952, equation 1 (L = c + k exp(t . w)); Huber 1964, Robust
Estimation of a Location Parameter, for the weights of far-off runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Mixtures = Float64[np.ndarray, "runs domains"]
Losses = Float64[np.ndarray, "runs metrics"]
Replicas = Float64[np.ndarray, "replicas runs"]
Predictions = Float64[np.ndarray, "replicas points metrics"]

#: Floors tried, as shares of the least loss. Above them, loss minus floor is all noise.
FLOORS = (0.0, 0.2, 0.4, 0.55, 0.7, 0.8, 0.88, 0.94)
ITERATIONS = 12
#: Huber's bound in standard deviations: 95 % as efficient as least squares on normal noise.
HUBER = 1.345
#: Least standard deviation of a logarithm that counts as noise: one in ten thousand.
LEAST_NOISE = 1e-4
#: Pull of the slopes towards each other, as if so many runs had said that weights do not matter.
RIDGE = 0.01


@dataclass(frozen=True)
class LogLinear:
    """Fitted laws.

    Attributes:
        floors: c of each replica and metric, in the metric's unit.
        slopes: t of each replica, metric and domain.
    """

    floors: Float64[np.ndarray, "replicas metrics"]
    slopes: Float64[np.ndarray, "replicas metrics domains"]

    def predict(self, mixtures: Mixtures) -> Predictions:
        """What the laws say of some mixtures."""
        exponents = np.einsum("rmd,pd->rpm", self.slopes, mixtures)
        return self.floors[:, None] + np.exp(exponents)


def fit_log_linear(
    mixtures: Mixtures, losses: Losses, replicas: Replicas, floors: Sequence[float] = FLOORS
) -> LogLinear:
    """Fit every metric under every replica's weights of the runs.

    Residuals are those of logarithms, since losses of domains differ in size. Of the floors the one with the least sum
    of absolute residuals is taken.

    Args:
        mixtures: Weights of the domains of each run; rows sum to 1.
        losses: What was measured; positive.
        replicas: How much each run counts in each fit; 0 leaves it out.
        floors: c to try, as shares of the least loss; ``(0.0,)`` makes it a plain log-linear law.
    """
    least = np.where(replicas[:, :, None] > 0, losses[None], np.inf).min(axis=1)  # replicas, metrics
    tried = least[..., None] * np.asarray(floors)  # replicas, metrics, floors
    weight = replicas[:, None, None]  # replicas, 1, 1, runs
    # A run that a replica leaves out may lie below the floor; it has no weight, so any logarithm will do.
    above = np.where(weight > 0, losses.T[None, :, None] - tried[..., None], 1.0)
    ones = np.broadcast_to(weight, above.shape)
    slopes = _solve(mixtures, ones * (above / losses.T[None, :, None]) ** 2, np.log(above), None)
    for _ in range(ITERATIONS):
        residual, slope = _residuals(mixtures, losses, tried, slopes)
        scale = _scale(residual, ones)
        robust = np.minimum(1.0, HUBER * scale / np.maximum(np.abs(residual), 1e-300))
        slopes = slopes + _solve(mixtures, ones * robust * slope**2, residual / slope, slopes)
    misfit = (ones * np.abs(_residuals(mixtures, losses, tried, slopes)[0])).sum(-1)
    best = misfit.argmin(axis=-1)[..., None]
    return LogLinear(
        np.take_along_axis(tried, best, -1)[..., 0], np.take_along_axis(slopes, best[..., None], -2)[..., 0, :]
    )


def _residuals(mixtures: Mixtures, losses: Losses, floors: np.ndarray, slopes: np.ndarray) -> tuple:
    """Residuals of the logarithms, and how the predicted logarithm moves with the exponent (replicas, metrics, ...)."""
    rise = np.exp(np.clip(slopes @ mixtures.T, -30, 30))
    predicted = floors[..., None] + rise
    return np.log(losses.T)[None, :, None] - np.log(predicted), rise / predicted


def _scale(residual: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Standard deviation of each fit's noise by the median of the absolute residuals of runs that count."""
    counted = np.where(weights > 0, np.abs(residual), np.nan)
    return np.maximum(1.4826 * np.nanmedian(counted, axis=-1, keepdims=True), LEAST_NOISE)


def _solve(mixtures: Mixtures, weights: np.ndarray, target: np.ndarray, now: np.ndarray | None) -> np.ndarray:
    """Weighted least squares of the target, the slopes drawn together; ``now`` are those that a step starts from."""
    count = mixtures.shape[1]
    normal = np.einsum("...n,ni,nj->...ij", weights, mixtures, mixtures)
    apart = RIDGE * weights.mean(-1)[..., None, None] * (np.eye(count) - 1 / count)
    right = np.einsum("...n,...n,ni->...i", weights, target, mixtures)
    if now is not None:
        right = right - np.einsum("...ij,...j->...i", apart, now)
    jitter = 1e-12 * np.trace(normal, axis1=-2, axis2=-1)[..., None, None] * np.eye(count)
    return np.linalg.solve(normal + apart + jitter, right[..., None])[..., 0]
