"""Successive halving on Ray Tune, by promotion: a trial at a rung saves, lets go of its process, and waits to go on.

Tune's own schedulers of that name stop trials at rungs and so must let the first ones go on, for want of others to
compare them with. Who goes on here is said by ``tune.halving``.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler

from rayllm.tune.halving import Halving


class Halved(FIFOScheduler):
    """Tells Tune what ``Halving`` decides; results come with steps and values under the names given.

    Args:
        halving: Decides.
        step: Name of the step in a result.
        value: Name of the value.
        places: How many trials may run at a time; asked each time.
        over: Whether nothing may go on any more.
    """

    def __init__(
        self, halving: Halving, step: str, value: str, places: Callable[[], float], over: Callable[[], bool]
    ) -> None:
        super().__init__()
        self._halving, self._step, self._value = halving, step, value
        self._places, self._over = places, over
        self._trials: dict[str, Trial] = {}

    @property
    def admits(self) -> bool:
        """Whether there is a place for a new trial."""
        return self._halving.running < self._places() and self._halving.best() is None

    @property
    def waits(self) -> bool:
        """Whether trials stand at rungs."""
        return bool(self._halving.waiting)

    def recall(self, trial_id: str, results: Sequence[Mapping[str, Any]]) -> None:
        """A trial of an earlier start of the sweep: others are compared with it, whether or not it joins again."""
        self._halving.recall(trial_id, self._shown(results))

    def go_on(self, trial: Trial, results: Sequence[Mapping[str, Any]]) -> None:
        """A trial joins; it may have shown something in an earlier start of the sweep."""
        self._trials[trial.trial_id] = trial
        if self._halving.begin(trial.trial_id, self._shown(results)):
            trial.set_status(Trial.PAUSED)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """At a rung a trial waits, unless it is the one to go on."""
        if not self._halving.report(trial.trial_id, result[self._step], result[self._value], time.monotonic()):
            return self.CONTINUE
        if self._halving.best() != trial.trial_id and not self._over():
            return self.PAUSE
        self._halving.promote(trial.trial_id)  # where the budget is spent it saves and ends, and may go on one day
        return self.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """It has come to its end, has failed, or was told to end for the budget."""
        ended = result["progress"].reached.ended if "progress" in result else ""
        if ended == "failed":
            self._halving.fail(trial.trial_id)
        else:
            self._halving.leave(trial.trial_id, done=ended == "finished")

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Its process is lost; where it is tried again, it joins again."""
        self._halving.fail(trial.trial_id)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """It was ended while it waited."""
        self._halving.leave(trial.trial_id)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """A waiting trial that goes on, or what is about to start. Where nothing more is to come, those left end."""
        starting = (trial for trial in tune_controller.get_trials() if trial.status == Trial.PENDING)
        return self._next_of_waiting(tune_controller) or next(starting, None)

    def _next_of_waiting(self, tune_controller: Any) -> Trial | None:
        halving, chosen = self._halving, None
        waiting = [self._trials[one] for one in halving.waiting]
        saving = sum(trial.status != Trial.PAUSED for trial in waiting)  # who saves still has its place
        if not self._over() and halving.running + saving < self._places():
            chosen = halving.best() or (None if saving else halving.filler(time.monotonic()))
        if chosen is not None and self._trials[chosen].status == Trial.PAUSED:
            halving.promote(chosen)
            return _asked_now(self._trials[chosen])
        if not halving.running and not saving:
            for trial in waiting:
                tune_controller.stop_trial(trial)
        return None

    def _shown(self, results: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
        return [(result[self._step], result[self._value]) for result in results]


def _asked_now(trial: Trial) -> Trial:
    """The trial, whose seconds run from now: not from when it first took its turn."""
    if "order" in trial.config:
        trial.set_config({**trial.config, "order": replace(trial.config["order"], asked_s=time.time())})
    return trial
