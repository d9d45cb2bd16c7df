"""The noise of a sweep: how far results differ for no other reason than the seed, and what leads it leaves standing.

In: values of replicates, group by group. Out: a pooled standard deviation with its degrees of freedom, and critical
values of leads in units of their standard error. Few replicates are no obstacle to being right, only to being sure: the
quantiles are Student's, not the normal's, so a spread known from two degrees of freedom asks for a far larger lead.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

#: Draws of the simulated quantile: the level it stands for is met within a tenth of a per cent.
DRAWS = 50_000


@dataclass(frozen=True)
class Noise:
    """Spread of one trial's result over seeds.

    Attributes:
        sd: Pooled standard deviation, in the unit of the objective.
        degrees: Degrees of freedom it was estimated with.
        groups: Groups of replicates it was pooled over.
    """

    sd: float
    degrees: int
    groups: int

    def error_of_lead(self, first: int, second: int) -> float:
        """Standard error of the difference of two means of this many replicates."""
        return self.sd * math.sqrt(1 / first + 1 / second)

    def error_of_mean(self, replicates: int) -> float:
        """Standard error of the mean of this many replicates."""
        return self.sd / math.sqrt(replicates)


def pooled_noise(groups: Iterable[Sequence[float]]) -> Noise | None:
    """The standard deviation within groups, weighted by their degrees of freedom; ``None`` without any replicate.

    The usual within-group mean square of a one-way layout. It is exact for equal true spreads; settings that are near
    to diverging spread more, and should not be among the groups.

    Source: Hsu 1996, Multiple Comparisons: Theory and Methods, section 1.3.
    """
    replicated = [np.asarray(values, dtype=np.float64) for values in groups if len(values) > 1]
    degrees = sum(len(values) - 1 for values in replicated)
    if not degrees:
        return None
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in replicated)
    return Noise(math.sqrt(squares / degrees), degrees, len(replicated))


def best_against_next(level: float, degrees: int) -> float:
    """Lead of the best over the runner-up, in standard errors, that proves the best to be the best.

    However many there were to choose from, this is the two-sided quantile for two: among many that are all as good, the
    first two are nearer to each other than two alone would be, so two are the worst case.

    Source: Gutmann and Maymin 1987, Is the selected population the best?, Annals of Statistics 15(1).
    """
    from scipy.stats import t

    return float(t.ppf(1 - level / 2, degrees))


@lru_cache(maxsize=64)
def many_against_one(level: float, degrees: int, replicates: tuple[int, ...], of_baseline: int) -> float:
    """Lead of any of several over a baseline, in standard errors, that chance alone seldom gives to even one of them.

    Dunnett's two-sided quantile: of the largest of several t that share the baseline and the estimate of the spread.
    Simulated, from a fixed seed, so that groups may have different numbers of replicates.

    Args:
        level: How often one of them may come this far where all are equal.
        degrees: Of freedom of the estimated spread.
        replicates: Of each group that was compared, or was there to be chosen.
        of_baseline: Replicates of the baseline.

    Source: Dunnett 1955, A multiple comparison procedure for comparing several treatments with a control, JASA 50.
    """
    rng = np.random.default_rng(0)
    baseline = rng.standard_normal(DRAWS) / math.sqrt(of_baseline)
    greatest = np.zeros(DRAWS)
    for count in replicates:
        lead = baseline - rng.standard_normal(DRAWS) / math.sqrt(count)
        np.maximum(greatest, np.abs(lead) / math.sqrt(1 / count + 1 / of_baseline), out=greatest)
    spread = np.sqrt(rng.chisquare(degrees, DRAWS) / degrees)
    return float(np.quantile(greatest / spread, 1 - level))
