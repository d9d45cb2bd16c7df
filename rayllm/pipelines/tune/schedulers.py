"""Who decides which trials go on: Ray Tune's own schedulers, on values that the sweep's objective gives.

In: the ``tune.scheduler`` section, the course of a whole trial. Out: a scheduler for Tune, which knows what the trials
of earlier starts of the sweep have shown.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from rayllm.pipelines.tune.preparing import Course
from rayllm.pipelines.tune.trial_runs import Judge
from rayllm.tune.results import Point, TrialResult
from rayllm.tune.schedulers import AshaScheduler, MedianScheduler, NoScheduler, PbtScheduler, SchedulerConfig

STEP, VALUE = "step", "objective"
_COMMON: dict[str, Any] = {"time_attr": STEP, "metric": VALUE, "mode": "min"}

#: From a good trial's config for Tune to that of the trial which takes its place.
Explore = Callable[[dict[str, Any]], dict[str, Any]]


def build_scheduler(config: SchedulerConfig, course: Course, explore: Explore) -> TrialScheduler:
    """Tune's scheduler; it counts steps from ``course.origin``.

    Args:
        config: The section.
        course: Of a whole trial.
        explore: For population-based training.
    """
    total_steps = course.own(config)
    match config:
        case NoScheduler():
            return FIFOScheduler()
        case AshaScheduler():
            first = min(config.rungs(total_steps), default=total_steps)
            return AsyncHyperBandScheduler(
                **_COMMON, max_t=total_steps, grace_period=first, reduction_factor=config.reduction
            )
        case MedianScheduler():
            return MedianStoppingRule(
                **_COMMON,
                grace_period=config.first_step(total_steps),
                min_samples_required=config.least_trials,
                min_time_slice=float("inf"),  # pyright: ignore[reportArgumentType] - no trial waits for others
            )
        case PbtScheduler():
            return PopulationBasedTraining(
                **_COMMON,
                perturbation_interval=course.interval(config),
                quantile_fraction=config.quantile,
                custom_explore_fn=explore,
                synch=True,  # the same trials meet at every change, however few run at a time
                log_config=False,
            )


class Judged(FIFOScheduler):
    """A scheduler that gets the objective's value with every result.

    Args:
        inner: Decides.
        judge: Gives the value; a point that has none is as bad as can be.
        origin: Step from which ``inner`` counts.
        rungs: The only steps, so counted, at which it decides; None for all. It would take a validation between two
            rungs, or after the last, for one at the rung before.
        earlier: Validations of the trials that go on, by id.
    """

    def __init__(
        self,
        inner: TrialScheduler,
        judge: Judge,
        origin: int = 0,
        *,
        rungs: Collection[int] | None = None,
        earlier: Mapping[str, Sequence[Point]] | None = None,
    ) -> None:
        super().__init__()
        self._inner, self._judge, self._origin = inner, judge, origin
        self._rungs, self._earlier = rungs, dict(earlier or {})

    def recall(self, results: Iterable[TrialResult]) -> None:
        """Let it know the trials of earlier starts, in the order in which they ended."""
        if isinstance(self._inner, PopulationBasedTraining):
            return
        for result in results:
            if result.status != "failed" and not result.cut:
                trial: Any = _Remembered(result.key)
                self._inner.on_trial_add(None, trial)  # pyright: ignore[reportArgumentType] - they look at the trial only
                self._remember(trial, result.curve)

    def _remember(self, trial: Any, curve: Iterable[Point]) -> None:
        """Let it know what a trial has shown; whether that went on was decided then."""
        for valued in map(self._valued, curve):
            if isinstance(self._inner, MedianStoppingRule):
                self._inner._results[trial].append(valued)
            elif self._decides(valued):
                self._inner.on_trial_result(None, trial, valued)  # pyright: ignore[reportArgumentType]

    def _decides(self, valued: Mapping[str, Any]) -> bool:
        return VALUE in valued and (self._rungs is None or valued[STEP] in self._rungs)

    def go_on(self, furthest: int) -> None:
        """A population that was interrupted meets next after the step that the furthest of its trials had reached."""
        inner = self._inner
        if isinstance(inner, PopulationBasedTraining) and furthest > self._origin:
            every = inner._perturbation_interval
            inner._next_perturbation_sync = ((furthest - self._origin) // every + 1) * every

    def _valued(self, point: Point) -> dict[str, Any]:
        value = self._judge(point.metrics, point.tokens)
        return {STEP: point.step - self._origin, VALUE: value if value == value else float("inf")}

    def _with_value(self, result: Mapping[str, Any]) -> dict[str, Any]:
        progress = result.get("progress")
        point = progress.reached.point if progress is not None else None
        return {**result, **self._valued(point)} if point else {k: v for k, v in result.items() if k != STEP}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on; a trial that joins a population late, or again, meets it where the others do.

        One that goes on brings what it has shown.
        """
        inner = self._inner
        inner.on_trial_add(tune_controller, trial)
        if isinstance(inner, PopulationBasedTraining):
            met = inner._next_perturbation_sync - inner._perturbation_interval
            inner._trial_state[trial].last_perturbation_time = int(met)
        else:
            self._remember(trial, self._earlier.pop(trial.trial_id, ()))

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide whether the trial goes on; one that was just begun always does."""
        valued = self._with_value(result)
        return self._inner.on_trial_result(tune_controller, trial, valued) if self._decides(valued) else self.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on what the trial came to, unless it is compared at rungs alone, which have it."""
        valued = self._with_value(result)
        if VALUE in valued and self._rungs is None:
            self._inner.on_trial_complete(tune_controller, trial, valued)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on."""
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Pass on; a population in which all wait for a trial that has ended meets without it."""
        inner = self._inner
        chosen = inner.choose_trial_to_run(tune_controller)
        if chosen is not None or not isinstance(inner, PopulationBasedTraining):
            return chosen
        live = list(tune_controller.get_live_trials())
        if not live or any(trial.status != Trial.PAUSED for trial in live):
            return None
        inner.on_trial_result(tune_controller, live[0], inner._trial_state[live[0]].last_result or {})
        return inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """Pass on."""
        return self._inner.debug_string()


@dataclass(frozen=True)
class _Remembered:
    """A trial of an earlier start, as far as schedulers look at it."""

    trial_id: str
