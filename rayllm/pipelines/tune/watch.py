"""A sweep's driver between Tune's events: what ended goes into the book, what nobody gives back is given back.

And what waits for resources is told with the one that it lacks, since Tune and Ray wait without a word.
"""

import math
import time
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.progress_reporter import TrialProgressCallback

from rayllm.core.log import get_logger
from rayllm.pipelines.train.crew.stopping import StopRequest
from rayllm.pipelines.tune.abandoned import all_groups, nothing_fits, release_abandoned
from rayllm.pipelines.tune.book import Book
from rayllm.pipelines.tune.capacity import Needs, lacking
from rayllm.pipelines.tune.stepwise import describe

#: Seconds without news of any trial after which it is told what they wait for.
WAITING_NOTICE_S = 30.0
#: Seconds between looks at what was left behind.
LOOK_S = 2.0
#: Seconds of a sweep that are forgotten at most when its driver is killed.
KEEP_S = 30.0

logger = get_logger(__name__)


class Watch(Callback):
    """Tells the book what Tune knows, ends trials where the budget does, and says so when nothing can run."""

    def __init__(self, book: Book, needs: Needs, stop: StopRequest) -> None:
        self._book, self._needs, self._stop = book, needs, stop
        self._last_life = self._looked = self._kept = time.monotonic()
        self._asked = -math.inf
        self._over = False

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Its time runs from here."""
        self._book.begin(trial.trial_id)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **_: Any
    ) -> None:
        """Note how far it came."""
        self._last_life = time.monotonic()
        self._book.note(trial.trial_id, result["progress"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Settle it, unless the sweep was interrupted: then it goes on next time."""
        if not self._stop.asked:
            self._book.close(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **_: Any) -> None:
        """Its process died, and died again as often as it was tried."""
        error = _error_of(trial)
        if not self._stop.asked:
            self._book.close(trial.trial_id, describe(error), str(error))

    def on_step_end(self, iteration: int, trials: list[Trial], **_: Any) -> None:
        """End trials in time for the budget; write down where it stands; give back what is left; say what lacks."""
        for trial in trials:
            if trial.status == Trial.PAUSED:
                self._book.pause(trial.trial_id)
        if not self._over and not self._stop.asked and self._book.overdue():
            self._over = True
            logger.info("the budget is spent: the trials that run now save and end")
            self._stop.write()
        now = time.monotonic()
        if now - self._kept > KEEP_S:
            self._kept = now
            self._book.keep()
        if self._needs.workers > 1 and now - self._looked > LOOK_S:
            self._looked = now
            release_abandoned()
        self._tell_what_lacks(trials, now)

    def on_experiment_end(self, trials: list[Trial], **_: Any) -> None:
        """Leave nothing behind."""
        if self._needs.workers > 1:
            release_abandoned()

    def _tell_what_lacks(self, trials: list[Trial], now: float) -> None:
        if any(trial.status == Trial.RUNNING for trial in trials) and self._needs.workers == 1:
            self._last_life = now
        elif self._book.live and now - self._last_life > WAITING_NOTICE_S and self._nothing_fits(now):
            self._last_life = now
            what = lacking(self._needs, ray.available_resources(), ray.cluster_resources())
            logger.warning("no trial can start: %s", what)

    def _nothing_fits(self, now: float) -> bool:
        """Whether trials only wait: one of several workers is running for Tune before its workers have anything."""
        if now - self._asked < LOOK_S:
            return False
        self._asked = now
        return nothing_fits(all_groups(), bytes.fromhex(ray.get_runtime_context().get_job_id()))


class Silence(TrialProgressCallback):
    """In the place of what Tune prints of its own accord of trials that end without ever having begun."""

    def _print(self, msg: str) -> None: ...


def _error_of(trial: Trial) -> BaseException:
    """The error of a trial, from the file that Tune wrote in this process a moment ago; it offers no other way."""
    path = trial.pickled_error_file
    assert path, "Tune keeps the error of every failed trial"
    error = cloudpickle.loads(Path(path).read_bytes())
    return error.cause if isinstance(error, RayTaskError) else error
