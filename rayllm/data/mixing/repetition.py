"""Repetition caps: weights under which no domain is read more often than it may be.

In: the weights of every part of a run, how often each domain would be read, and caps. Out: weights that keep the caps
and are otherwise as near to the given ones as can be.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from rayllm.core.errors import ConfigError

#: Rounds before the caps count as impossible to keep; a run that can keep them seldom needs a hundred.
MAX_ROUNDS = 20_000
#: Caps are aimed at from below by this share, so that none is exceeded by what convergence leaves.
SLACK = 1e-4

Matrix = Float64[np.ndarray, "parts domains"]


class Capped(NamedTuple):
    """Weights that keep the caps.

    Attributes:
        shares: For each part of the run the share of each domain; each row sums to 1.
        held: Index of each domain that its cap holds down.
    """

    shares: list[list[float]]
    held: frozenset[int]


def redistribute(
    shares: Sequence[Sequence[float]], full_epochs: Sequence[Sequence[float]], caps: Mapping[str, float]
) -> Capped:
    """Hold every domain to its cap and give what it loses to the others by their weights.

    A domain's weight is multiplied by one factor in all parts of the run, 1 or less, and less only where that makes it
    reach its cap exactly; then each part is normalised. In a run of one part the domains without a factor keep their
    proportions, and uniform weights become the UniMax mixture. Of all weights that keep the caps these are the nearest
    to the given ones (Kullback-Leibler, weighted by tokens): the factors are the multipliers of that problem, found by
    iterative proportional fitting.

    Args:
        shares: For each part the share of each domain, summing to 1.
        full_epochs: How often each part would read each domain if it read nothing else.
        caps: Most epochs of each domain; may be infinite.

    Raises:
        ConfigError: If the run is too long for the caps.

    Source: Chung et al. 2023, UniMax, arXiv:2304.09151, section 3; Deming and Stephan 1940, On a least squares
    adjustment of a sampled frequency table, Annals of Mathematical Statistics 11(4).
    """
    wanted, epochs = np.asarray(shares, np.float64), np.asarray(full_epochs, np.float64)
    limits = np.asarray(list(caps.values())) * (1 - SLACK)
    with np.errstate(divide="ignore"):
        logs = np.log(wanted)
    factors = np.zeros(len(limits))  # logarithms
    over = np.ones(len(limits), bool)
    for _ in range(MAX_ROUNDS):
        fitted = _normalised(logs + factors)
        read = (fitted * epochs).sum(axis=0)
        over = read > limits * (1 + SLACK)
        if not over.any():
            return Capped(fitted.tolist(), frozenset(np.flatnonzero(factors < 0).tolist()))
        with np.errstate(divide="ignore"):
            factors = np.minimum(0, factors + np.log(limits / read))
    worst = [name for name, is_over in zip(caps, over, strict=True) if is_over]
    raise ConfigError(
        "the run reads more than its repetition caps allow",
        where="mixture.max_epochs",
        why=f"whatever the weights, {', '.join(worst)} would be read more than {_numbers(caps, worst)} times",
        fix="train on fewer tokens, add data, raise `mixture.max_epochs`, or set `mixture.cap: warn`",
    )


def _normalised(logs: Matrix) -> Matrix:
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _numbers(caps: Mapping[str, float], names: Sequence[str]) -> str:
    return " or ".join(sorted({f"{caps[name]:g}" for name in names}))
