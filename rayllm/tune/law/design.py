"""Which mixtures to train for a law: Dirichlet points around some shares that fill the space between them well.

In: a centre, how many points, what was tried before. Out: the points. A pure function of the seed.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from rayllm.core.errors import ConfigError
from rayllm.data.mixing.weights import PERIOD, quantize

Shares = Float64[np.ndarray, " domains"]
Points = Float64[np.ndarray, "points domains"]

#: Points to choose from, and designs tried; more designs gain little (the best of 512 is within a few percent).
POOL, DESIGNS = 4096, 512
#: Draws for each point of the pool before the bounds count as too narrow.
MAX_BATCHES = 64
#: Least Dirichlet parameter: below it draws lie in the corners.
MIN_ALPHA = 0.2


@dataclass(frozen=True)
class Bounds:
    """Least and greatest share of each domain.

    Attributes:
        low: Least share of each domain.
        high: Greatest share of each domain.

    Raises:
        ConfigError: If no mixture is within.
    """

    low: Shares
    high: Shares

    def __post_init__(self) -> None:
        if (self.low > self.high).any() or self.low.sum() > 1 or self.high.sum() < 1:
            raise ConfigError(
                "no mixture keeps the floors, the caps and the repetition caps together",
                why=f"shares of at least {_text(self.low)} and at most {_text(self.high)} cannot sum to 1",
                fix="lower `floor`, raise `cap` or `mixture.max_epochs`, train on fewer tokens, or add data",
            )

    def hold(self, points: Points) -> Float64[np.ndarray, " points"]:
        """How far each point is outside; 0 within."""
        return np.maximum(self.low - points, points - self.high).max(axis=1).clip(0)


def fill_space(centre: Shares, count: int, *, concentration: float, bounds: Bounds, tried: Points, seed: int) -> Points:
    """Points around a centre, far from each other and from what was tried.

    Of many random designs the one is taken whose two nearest points are farthest apart (maximin: Johnson, Moore and
    Ylvisaker 1990, Minimax and maximin distance designs, J. Statistical Planning and Inference 26). Distances are
    Hellinger's, under which a step from 1 % to 4 % is as long as one from 25 % to 36 %.

    Args:
        centre: Mean of the Dirichlet distribution.
        count: How many.
        concentration: Sum of the Dirichlet parameters over the number of domains.
        bounds: No point lies outside.
        tried: Mixtures that are trained already.
        seed: Of all draws.

    Returns:
        The points, in the mixture's resolution of 1/1024.
    """
    rng = np.random.default_rng(seed)
    pool = dirichlet_pool(centre, POOL, concentration, bounds, rng)
    designs = np.stack([rng.choice(len(pool), count, replace=False) for _ in range(DESIGNS)])
    roots, known = np.sqrt(pool), np.sqrt(tried)
    among = [_nearest_pair(roots[design], known) for design in designs]
    return rounded(pool[designs[int(np.argmax(among))]])


def dirichlet_pool(centre: Shares, size: int, concentration: float, bounds: Bounds, rng: np.random.Generator) -> Points:
    """Random mixtures within the bounds.

    Raises:
        ConfigError: If the bounds are so narrow that hardly a draw keeps them.
    """
    alpha = np.maximum(concentration * len(centre) * centre, MIN_ALPHA)
    found: list[Points] = []
    for _ in range(MAX_BATCHES):
        draws = bounds.low + (1 - bounds.low.sum()) * rng.dirichlet(alpha, size)
        found.append(draws[bounds.hold(draws) <= 0])
        if sum(map(len, found)) >= size:
            break
    pool = np.concatenate(found)[:size]
    if len(pool) < min(size, 256):
        raise ConfigError(
            "hardly any mixture lies within the floors and caps",
            why=f"{len(pool)} of {MAX_BATCHES * size:,} draws did",
            fix="widen the floors and caps of the domains, or raise `mixture.max_epochs`",
        )
    return pool


def rounded(points: Points) -> Points:
    """Mixtures in the resolution that trainings have."""
    return np.asarray([[draws / PERIOD for draws in quantize((row / row.sum()).tolist())] for row in points])


def _nearest_pair(points: Points, known: Points) -> float:
    everything = np.concatenate([points, known])
    square = ((points[:, None] - everything[None]) ** 2).sum(-1)
    square[np.arange(len(points)), np.arange(len(points))] = np.inf
    return float(square.min())


def _text(shares: Shares) -> str:
    return "(" + ", ".join(f"{share:.3g}" for share in shares) + ")"
