"""What a sweep may cost, and what it has cost so far.

In: the limits of the run file, the results, the trials that run now. Out: whether another trial may start, and until
when. The clock is the caller's, so that a simulated one serves as well.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.tune.results import HOUR_S, TrialResult


class BudgetConfig(ConfigModel):
    """What a sweep may cost; whichever limit comes first."""

    trials: int | None = Field(
        default=None,
        ge=1,
        description="Trainings in all: baselines, samples and replicates, not what confirms a winner.",
    )
    hours: float | None = Field(
        default=None,
        gt=0,
        description="Hours by the clock, over all starts of the sweep. Trials that run then are ended.",
    )
    device_hours: float | None = Field(
        default=None,
        gt=0,
        description="Hours times GPUs held (CPUs where a trial holds no GPU). Trials that run then are ended.",
    )

    def exceeds(self, other: "BudgetConfig") -> bool:
        """Whether any limit is higher than the other's; a limit that is not set is the highest."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in BudgetConfig.model_fields)
        return any(theirs is not None and (ours is None or ours > theirs) for ours, theirs in pairs)


@dataclass(frozen=True)
class Running:
    """A trial that runs now.

    Attributes:
        since_s: When it began, on the caller's clock.
        devices: GPUs it holds, or CPUs where it holds none.
    """

    since_s: float
    devices: float


@dataclass(frozen=True)
class Spent:
    """What a sweep has cost.

    Attributes:
        trials: Begun, the running ones included.
        wall_s: Seconds by the clock, over all starts of the sweep.
        device_s: Device-seconds of ended and running trials.
    """

    trials: int = 0
    wall_s: float = 0.0
    device_s: float = 0.0


class Budget:
    """The limits, and the questions that an executor asks of them.

    Args:
        limits: Of the run file.
        earlier_s: Seconds by the clock that earlier starts of this sweep took.
        began_s: When this start began, on the caller's clock.
    """

    def __init__(self, limits: BudgetConfig, *, earlier_s: float = 0.0, began_s: float = 0.0) -> None:
        self._limits, self._earlier_s, self._began_s = limits, earlier_s, began_s

    def spent(self, results: Iterable[TrialResult], running: Sequence[Running], now_s: float) -> Spent:
        """What the sweep has cost until now.

        Args:
            results: Of all ended trials, those of earlier starts included.
            running: Trials of this moment.
            now_s: On the caller's clock.
        """
        ended = list(results)
        device_s = sum(one.device_s for one in ended) + sum((now_s - one.since_s) * one.devices for one in running)
        keys = {one.key for one in ended}
        return Spent(len(keys) + len(running), self._earlier_s + now_s - self._began_s, device_s)

    def allows_start(self, spent: Spent) -> bool:
        """Whether another trial may begin."""
        limits = self._limits
        return not (
            (limits.trials is not None and spent.trials >= limits.trials)
            or (limits.hours is not None and spent.wall_s >= limits.hours * HOUR_S)
            or (limits.device_hours is not None and spent.device_s >= limits.device_hours * HOUR_S)
        )

    def deadline_s(self, results: Iterable[TrialResult], running: Sequence[Running], now_s: float) -> float:
        """When the trials that run now must have ended, on the caller's clock; infinite without a limit in time.

        Device-hours flow as fast as there are devices in use: the moment is later when a trial ends before it.
        """
        spent, limits, rate = self.spent(results, running, now_s), self._limits, sum(one.devices for one in running)
        left = math.inf
        if limits.hours is not None:
            left = limits.hours * HOUR_S - spent.wall_s
        if limits.device_hours is not None and rate > 0:
            left = min(left, (limits.device_hours * HOUR_S - spent.device_s) / rate)
        return now_s + left
