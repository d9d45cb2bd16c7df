"""Early stopping: has a validation metric become better lately?"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rayllm.core.errors import ConfigError
from rayllm.train.guards.config import EarlyStoppingConfig


@dataclass
class Patience:
    """The best value so far and how many validations brought none; part of a run's state.

    Attributes:
        best: Of the config's mode, the lowest or highest value; None before the first.
        waited: Validations since.
    """

    best: float | None = None
    waited: int = 0

    def exhausted(self, config: EarlyStoppingConfig, metrics: Mapping[str, float]) -> bool:
        """Take a validation; whether it is time to stop.

        Raises:
            ConfigError: If the metric is not among those of the validation.
        """
        if config.metric not in metrics:
            raise ConfigError(
                "early stopping looks at a metric that validation does not give",
                where="train.guards.early_stopping.metric",
                why=f"`{config.metric}` is not among {', '.join(sorted(metrics))}",
                fix="name one of them",
            )
        value = metrics[config.metric]
        sign = 1 if config.mode == "min" else -1
        better = math.isfinite(value) and (self.best is None or sign * value < sign * self.best - config.min_delta)
        self.best, self.waited = (value, 0) if better else (self.best, self.waited + 1)
        return self.waited >= config.patience
