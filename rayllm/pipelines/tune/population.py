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

logger = get_logger(__name__)


class Exploring:
    """Changes the settings of a good trial for the one that takes its place.

    Args:
        sweep: Knows how.
        prepare: What the scheduler needs of a trial's training.
        changes: How many were made in earlier starts of the sweep.
    """

    def __init__(self, sweep: Sweep, prepare: Callable[[TrainConfig], TrainConfig], changes: int = 0) -> None:
        self._sweep, self._prepare, self._changes = sweep, prepare, changes

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
