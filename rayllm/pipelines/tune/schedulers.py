"""Who decides which trials go on: Ray Tune's schedulers, and ours for halving, on values that the objective gives.

In: the ``tune.scheduler`` section, the course of a whole trial. Out: a scheduler for Tune, which knows what the trials
of earlier starts of the sweep have shown.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from rayllm.pipelines.tune.halved import Halved
from rayllm.pipelines.tune.preparing import Course
from rayllm.pipelines.tune.trial_runs import Judge
from rayllm.tune.halving import Halving
from rayllm.tune.results import Point, TrialResult
from rayllm.tune.schedulers import AshaScheduler, MedianScheduler, NoScheduler, PbtScheduler, SchedulerConfig

STEP, VALUE = "step", "objective"
_COMMON: dict[str, Any] = {"time_attr": STEP, "metric": VALUE, "mode": "min"}

#: From a good trial's config for Tune to that of the trial which takes its place.
Explore = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Around:
    """What a scheduler has to know of the sweep.

    Attributes:
        explore: For population-based training.
        places: How many trials may run at a time; asked each time.
        over: Whether the budget is spent, and nothing may go on.
    """

    explore: Explore
    places: Callable[[], float]
    over: Callable[[], bool]


def build_scheduler(config: SchedulerConfig, course: Course, around: Around) -> TrialScheduler:
    """A scheduler for Tune; it counts steps from ``course.origin``.

    Args:
        config: The section.
        course: Of a whole trial.
        around: What it has to know of the sweep.
    """
    total_steps = course.own(config)
    match config:
        case NoScheduler():
            return FIFOScheduler()
        case AshaScheduler():
            halving = Halving(config.rungs(total_steps), total_steps, config.reduction)
            return Halved(halving, STEP, VALUE, around.places, around.over)
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
                custom_explore_fn=around.explore,
                synch=True,  # the same trials meet at every change, however few run at a time
                log_config=False,
            )


class Judged(FIFOScheduler):
    """A scheduler that gets the objective's value with every result.

    Args:
        inner: Decides.
        judge: Gives the value; a point that has none is as bad as can be.
        origin: Step from which ``inner`` counts.
        earlier: Validations of the trials that go on, by id.
    """

    def __init__(
        self,
        inner: TrialScheduler,
        judge: Judge,
        origin: int = 0,
        *,
        earlier: Mapping[str, Sequence[Point]] | None = None,
    ) -> None:
        super().__init__()
        self._inner, self._judge, self._origin = inner, judge, origin
        self._earlier = {trial: [self._valued(point) for point in curve] for trial, curve in (earlier or {}).items()}
        if isinstance(inner, Halved):  # before any of them joins: who goes on depends on all
            for trial, shown in self._earlier.items():
                inner.recall(trial, shown)

    def admits(self, live: int, places: float) -> bool:
        """Whether there is a place for a new trial.

        Args:
            live: Trials that have begun and not ended.
            places: How many may run at a time.
        """
        return self._inner.admits if isinstance(self._inner, Halved) else live < places

    @property
    def waits(self) -> bool:
        """Whether trials have stopped at a rung that may go on."""
        return isinstance(self._inner, Halved) and self._inner.waits

    def recall(self, results: Iterable[TrialResult]) -> None:
        """Let it know the trials of earlier starts, in the order in which they ended."""
        if isinstance(self._inner, PopulationBasedTraining):
            return
        for result in results:
            if result.status == "failed" or result.cut:
                continue
            shown = [self._valued(point) for point in result.curve]
            if isinstance(self._inner, Halved):
                self._inner.recall(result.key, shown)
            elif isinstance(self._inner, MedianStoppingRule):
                self._inner._results[_Remembered(result.key)].extend(shown)  # pyright: ignore[reportArgumentType]

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
            return
        shown = self._earlier.pop(trial.trial_id, [])
        if isinstance(inner, Halved):
            inner.go_on(trial, shown)
        elif isinstance(inner, MedianStoppingRule) and shown:  # Ray takes whoever has an entry to have a result
            inner._results[trial].extend(shown)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Pass on."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Decide whether the trial goes on; one that was just begun always does."""
        valued = self._with_value(result)
        return self._inner.on_trial_result(tune_controller, trial, valued) if VALUE in valued else self.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Pass on what the trial came to, if it came to anything."""
        valued = self._with_value(result)
        if VALUE in valued or isinstance(self._inner, Halved):
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
