"""Is one mixture better than another? Trainings at the same seeds, compared in pairs.

In: the objective of every training by mixture and seed. Out: differences with intervals. What a seed adds to all
mixtures alike cancels; what is left is the noise, estimated from all mixtures that were trained at several seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayllm.core.errors import RunFailed


@dataclass(frozen=True)
class Measured:
    """One training.

    Attributes:
        mixture: Which mixture, by any name.
        seed: Seed of the training.
        value: Its objective.
    """

    mixture: str
    seed: int
    value: float


@dataclass(frozen=True)
class Difference:
    """How far one mixture is above another: below 0, the first is better.

    Attributes:
        mean: Estimated difference of the objectives.
        low: Lower end of the interval.
        high: Upper end of it.
        noise: Standard deviation of a training, without what its seed adds to all mixtures; None if it is not known.
        freedom: Degrees of freedom of the noise.
    """

    mean: float
    low: float
    high: float
    noise: float | None
    freedom: int

    @property
    def better(self) -> bool:
        """Whether the first is better for sure: the interval lies below 0."""
        return self.high < 0


class Comparison:
    """A fit of mixture effects plus seed effects to all trainings.

    Source: the additive model of a randomised block design (Fisher 1935, The Design of Experiments, chapter 4): seeds
    are the blocks. With two seeds and three mixtures this is the paired t test with the noise pooled over all pairs.

    Args:
        runs: The trainings; a mixture's seeds may differ from another's.
        confidence: Of the intervals.
    """

    def __init__(self, runs: Sequence[Measured], confidence: float) -> None:
        self._mixtures = list(dict.fromkeys(run.mixture for run in runs))
        seeds = list(dict.fromkeys(run.seed for run in runs))
        design = np.zeros((len(runs), len(self._mixtures) + len(seeds)))
        for row, run in enumerate(runs):
            design[row, self._mixtures.index(run.mixture)] = 1
            design[row, len(self._mixtures) + seeds.index(run.seed)] = 1
        values = np.asarray([run.value for run in runs])
        self._inverse = np.linalg.pinv(design.T @ design)
        self._effects = self._inverse @ design.T @ values
        self._design, self._confidence = design, confidence
        self.freedom = len(runs) - int(np.linalg.matrix_rank(design)) if runs else 0
        residual = values - design @ self._effects
        self.noise = float(np.sqrt(residual @ residual / self.freedom)) if self.freedom > 0 else None

    def difference(self, first: str, second: str) -> Difference:
        """The first mixture's objective less the second's.

        Raises:
            RunFailed: If no trainings link the two.
        """
        contrast = np.zeros(self._design.shape[1])
        for name, sign in ((first, 1.0), (second, -1.0)):
            if name not in self._mixtures:
                raise RunFailed(f"no training of the mixture {name!r} finished, so it cannot be compared")
            contrast[self._mixtures.index(name)] += sign
        if not np.allclose(self._inverse @ (self._design.T @ self._design) @ contrast, contrast, atol=1e-8):
            raise RunFailed(f"the mixtures {first!r} and {second!r} have no seed in common")
        mean = float(contrast @ self._effects)
        half = self.half_width(float(contrast @ self._inverse @ contrast))
        return Difference(mean, mean - half, mean + half, self.noise, self.freedom)

    def half_width(self, variance: float) -> float:
        """Half the interval of an estimate whose variance is this many times the noise's; infinite if unknown.

        Two means over n shared seeds differ with 2/n.
        """
        from scipy.stats import t

        if self.noise is None:
            return float("inf")
        return float(t.ppf((1 + self._confidence) / 2, self.freedom)) * self.noise * variance**0.5
