"""Logistic regression with an L2 penalty over sparse rows, in numpy: the same weights for the same rows, bit for bit.

Newton's method, each step found by conjugate gradients and halved until the loss falls (Lin, Weng and Keerthi 2008,
Trust Region Newton Method for Large-Scale Logistic Regression, JMLR 9; with a line search instead of the region). Rows
are only multiplied with vectors, block by block, so that memory is that of the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from rayllm.corpus.classifier.features import FeatureRows

_MAX_STEPS, _MAX_INNER_STEPS, _MAX_HALVINGS = 50, 100, 20
#: Newton's steps end where the gradient is this much smaller than at the start; an inner solution where its error is.
_TOLERANCE, _INNER_TOLERANCE = 1e-3, 0.1
#: Share of the expected decrease that a step must bring (Armijo).
_SUFFICIENT = 1e-4

PerText = Float64[np.ndarray, " texts"]
#: The weights, and the intercept after them.
Weights = Float64[np.ndarray, " columns_plus_1"]


def fit_logistic(
    blocks: Sequence[FeatureRows],
    good: Bool[np.ndarray, " texts"],
    used: Bool[np.ndarray, " texts"],
    *,
    l2: float,
    columns: int,
) -> Weights:
    """Find the weights with the smallest penalised loss.

    Args:
        blocks: The rows of all texts.
        good: Their labels.
        used: Which of them to learn from.
        l2: Factor of half the sum of the squared weights (the intercept's too), beside the sum of losses in nats.
        columns: Number of columns.
    """
    problem = _Problem(blocks, np.where(good, 1.0, -1.0), used.astype(np.float64), l2, columns)
    weights, log_odds = np.zeros(columns + 1), np.zeros(len(good))
    gradient = problem.gradient(weights, log_odds)
    enough = _TOLERANCE * _norm(gradient)
    for _ in range(_MAX_STEPS):
        if _norm(gradient) <= enough:
            break
        step = _newton_step(problem, log_odds, gradient)
        change = margins(blocks, step)
        length = _step_length(problem, weights, log_odds, step, change, _dot(gradient, step))
        if not length:
            break
        weights, log_odds = weights + length * step, log_odds + length * change
        gradient = problem.gradient(weights, log_odds)
    return weights


def margins(blocks: Sequence[FeatureRows], weights: Weights) -> PerText:
    """Log-odds of being good, for each text."""
    return np.concatenate([block.times(weights[:-1]) for block in blocks] or [np.empty(0)]) + weights[-1]


def probability(log_odds: PerText) -> PerText:
    """Log-odds as a probability."""
    return 0.5 * (1 + np.tanh(0.5 * log_odds))


@dataclass(frozen=True)
class _Problem:
    """The loss to be made small, and what Newton's method wants to know of it.

    Attributes:
        blocks: The rows of all texts.
        signs: 1 for good texts, -1 for bad ones.
        counted: 1 for texts to learn from, 0 for others.
        l2: The penalty.
        columns: Number of columns.
    """

    blocks: Sequence[FeatureRows]
    signs: PerText
    counted: PerText
    l2: float
    columns: int

    def loss(self, weights: Weights, log_odds: PerText) -> float:
        """The sum of the texts' losses, and the penalty; ``log_odds`` are the weights' margins, here and below."""
        losses = np.logaddexp(0, -self.signs * log_odds)
        return float((losses * self.counted).sum() + 0.5 * self.l2 * _dot(weights, weights))

    def gradient(self, weights: Weights, log_odds: PerText) -> Weights:
        """Derivative of the loss."""
        return self._sums(-self.signs * self._error(log_odds) * self.counted) + self.l2 * weights

    def curvature(self, log_odds: PerText) -> PerText:
        """Second derivative of each text's loss by its log-odds."""
        error = self._error(log_odds)
        return error * (1 - error) * self.counted

    def hessian_times(self, curvature: PerText, vector: Weights) -> Weights:
        """The second derivative of the loss times a vector."""
        return self._sums(curvature * margins(self.blocks, vector)) + self.l2 * vector

    def _error(self, log_odds: PerText) -> PerText:
        """How probable the wrong label is held to be."""
        return probability(-self.signs * log_odds)

    def _sums(self, factors: PerText) -> Weights:
        total, first = np.zeros(self.columns + 1), 0
        for block in self.blocks:
            total[:-1] += block.transposed_times(factors[first : first + block.count], self.columns)
            first += block.count
        total[-1] = factors.sum()
        return total


def _newton_step(problem: _Problem, log_odds: PerText, gradient: Weights) -> Weights:
    """Solve ``hessian @ step = -gradient`` about, by conjugate gradients."""
    curvature = problem.curvature(log_odds)
    step, rest = np.zeros_like(gradient), -gradient
    direction, square = rest, _dot(rest, rest)
    enough = _INNER_TOLERANCE**2 * square
    for _ in range(_MAX_INNER_STEPS):
        if square <= enough:
            break
        bent = problem.hessian_times(curvature, direction)
        length = square / _dot(direction, bent)
        step, rest = step + length * direction, rest - length * bent
        before, square = square, _dot(rest, rest)
        direction = rest + (square / before) * direction
    return step


def _step_length(
    problem: _Problem, weights: Weights, log_odds: PerText, step: Weights, change: PerText, slope: float
) -> float:
    """The first of 1, 1/2, 1/4, ... that makes the loss smaller by enough; 0 if none does."""
    loss = problem.loss(weights, log_odds)
    for halvings in range(_MAX_HALVINGS):
        length = 0.5**halvings
        if problem.loss(weights + length * step, log_odds + length * change) <= loss + _SUFFICIENT * length * slope:
            return length
    return 0.0


def _dot(first: Weights, second: Weights) -> float:
    """The inner product; by numpy's own sum, because that of a BLAS depends on its threads."""
    return float((first * second).sum())


def _norm(vector: Weights) -> float:
    return _dot(vector, vector) ** 0.5
