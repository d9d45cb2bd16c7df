"""Population-based training: a trial that fell behind goes on from a good one's checkpoint, with changed settings.

Ray Tune decides which trial takes whose place; how settings change is the sweep's ``explore``; and going on from
another's checkpoint is ``train.fork``.
"""

import time
from collections.abc import Callable
from typing import Any

from rayllm.core.errors import ConfigError
from rayllm.core.log import get_logger
from rayllm.pipelines.tune.progress import Order
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.train.config import TrainConfig
from rayllm.tune.schedulers import PbtScheduler, SchedulerConfig

#: Checkpoints that a trial keeps, so that none is gone before the trial that takes it over has read it.
KEEP = 1000

logger = get_logger(__name__)


class Exploring:
    """Changes the settings of a good trial for the one that takes its place.

    Args:
        sweep: Knows how.
        prepare: What the scheduler needs of a trial's training.
    """

    def __init__(self, sweep: Sweep, prepare: Callable[[TrainConfig], TrainConfig]) -> None:
        self._sweep, self._prepare, self._changes = sweep, prepare, 0

    def __call__(self, config: dict[str, Any]) -> dict[str, Any]:
        """From the good trial's config for Tune to the other's; settings that make no valid run are not taken."""
        order: Order = config["order"]
        self._changes += 1
        settings = self._sweep.explore(order.settings, self._changes)
        try:
            changed = self._sweep.plan(0, settings).config
        except ConfigError as error:
            logger.info("a change of settings makes no valid run, the good trial's own are taken: %s", error.what)
            return {**config, "order": Order(order.config, order.settings, time.time())}
        changed = changed.model_copy(update={"train": self._prepare(changed.train)})
        return {**config, "order": Order(changed, settings, time.time())}


def prepare_training(scheduler: SchedulerConfig, total_steps: int, config: TrainConfig) -> TrainConfig:
    """A trial's training as its scheduler needs it: a population hands over checkpoints at its intervals.

    Args:
        scheduler: The section of the run file.
        total_steps: Of a whole trial.
        config: Of the trial.
    """
    if not isinstance(scheduler, PbtScheduler):
        return config
    every = scheduler.interval(total_steps)
    checkpoint = config.checkpoint.model_copy(update={"every_steps": every, "keep_last": KEEP})
    validation = config.validation.model_copy(update={"every_steps": every})
    return config.model_copy(update={"checkpoint": checkpoint, "validation": validation})
