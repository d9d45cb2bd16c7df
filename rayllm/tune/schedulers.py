"""Schedulers: which trials go on. Their settings, and the points at which they decide.

The decisions themselves are those of ``tune.halving`` and Ray Tune; see ``pipelines.tune``.
"""

import itertools
import math
from typing import Annotated, Literal

from pydantic import Field

from rayllm.core.config import ConfigModel, Count


class NoScheduler(ConfigModel):
    """Every trial comes to its end."""

    kind: Literal["none"] = Field(default="none", description="Every trial comes to its end.")


class AshaScheduler(ConfigModel):
    """Asynchronous successive halving: at each rung only the best share goes on.

    Source: Li et al. 2018, A System for Massively Parallel Hyperparameter Tuning, arXiv:1810.05934, section 3.
    """

    kind: Literal["asha"] = Field(default="asha", description="At each rung, the best share of the trials goes on.")
    first: Count | None = Field(
        default=None, ge=1, description="Steps to the first rung; by default a 16th of the trial, at `reduction: 4`."
    )
    reduction: float = Field(
        default=4.0,
        gt=1,
        description="One of so many goes on, and each rung is so many times as far as the one before.",
    )

    def rungs(self, max_steps: int) -> list[int]:
        """Steps at which trials are judged, below the trial's end.

        Args:
            max_steps: Steps of a whole trial.
        """
        first = self.first or math.ceil(max_steps / self.reduction**2)
        steps = (math.ceil(first * self.reduction**rung) for rung in itertools.count())
        return list(itertools.takewhile(lambda step: step < max_steps, steps))


class MedianScheduler(ConfigModel):
    """A trial stops whose best value so far is worse than the median of the others' running means.

    Source: Golovin et al. 2017, Google Vizier, section 3.2.1.
    """

    kind: Literal["median"] = Field(default="median", description="Trials below the median of the others stop.")
    first: Count | None = Field(
        default=None, ge=1, description="Steps before any trial is stopped; by default a quarter of the trial."
    )
    least_trials: int = Field(default=3, ge=2, description="Other trials that must have come as far.")

    def first_step(self, max_steps: int) -> int:
        """Steps before any trial is stopped."""
        return self.first or max(1, round(max_steps / 4))


class PbtScheduler(ConfigModel):
    """Population-based training: now and then the worst trials go on from the best ones, with changed settings.

    Source: Jaderberg et al. 2017, Population Based Training of Neural Networks, arXiv:1711.09846, section 4.
    """

    kind: Literal["pbt"] = Field(
        default="pbt", description="The worst trials go on from the best, with changed settings."
    )
    every: Count | None = Field(
        default=None, ge=1, description="Steps between such changes; by default a fifth of the trial."
    )
    quantile: float = Field(
        default=0.25, gt=0, le=0.5, description="Share of the trials that is worst, and that is best."
    )
    resample: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Probability that a setting is drawn anew; else it is moved from the best's.",
    )

    def interval(self, max_steps: int) -> int:
        """Steps between changes."""
        return self.every or max(1, round(max_steps / 5))

    def draws_anew(self, chance: float) -> bool:
        """Whether a setting is drawn anew.

        Args:
            chance: Evenly drawn from [0, 1).
        """
        return chance < self.resample


SchedulerConfig = Annotated[NoScheduler | AshaScheduler | MedianScheduler | PbtScheduler, Field(discriminator="kind")]
