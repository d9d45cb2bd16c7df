"""Asynchronous successive halving by promotion: every trial waits at its rung, and the best of those there go on.

In: how far each trial has come, with which value, and when. Out: which of the waiting ones goes on. A free place takes
the first of: a waiting trial among the best share of its rung (the highest rung first), a new trial, and, when there
is none, a waiting trial that will be at its next rung before the longest of those that run by right is at its own: it
makes the sweep no longer. When none runs and none is new, the sweep has at least one trial that came to its end.

Times are the caller's clock's, so that a simulated one serves as well.

Source: Li et al. 2018, A System for Massively Parallel Hyperparameter Tuning, arXiv:1810.05934, algorithm 2; what fills
places that would stand empty at the end is ours.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: How much longer than the longest running trial one may take that fills an empty place: what is left is an estimate.
MARGIN = 1.3


@dataclass
class _Course:
    """A trial on its way: where it was last seen, when, the rung, or the end, that it goes to, and whether it is there
    to fill a place."""

    step: int
    seen_s: float | None
    goal: int
    fills: bool = False


class Halving:
    """Who goes on.

    Args:
        rungs: Steps at which trials wait, lowest first.
        end: Step at which a trial is done.
        reduction: One of so many goes on.
    """

    def __init__(self, rungs: Sequence[int], end: int, reduction: float) -> None:
        self._steps, self._reduction = [*rungs, end], reduction
        self._arrived: dict[int, dict[str, float]] = {step: {} for step in rungs}
        self._passed: dict[int, set[str]] = {step: set() for step in rungs}
        self._running: dict[str, _Course] = {}
        self._waiting: dict[str, int] = {}
        self._failed: dict[str, list[tuple[int, float]]] = {}
        self._paces: list[float] = []
        self._any_done = False

    @property
    def running(self) -> int:
        """Trials that have a place, or were told to take one."""
        return len(self._running)

    @property
    def waiting(self) -> list[str]:
        """Trials that stand at a rung, in the order in which they came."""
        return list(self._waiting)

    def begin(self, trial: str, shown: Iterable[tuple[int, float]] = ()) -> bool:
        """A trial takes a place, or goes back to the rung at which it waited.

        Args:
            trial: Its name.
            shown: Steps and values of what it has shown in an earlier start of the sweep.

        Returns:
            Whether it waits; one that had failed does not, but goes to the rung after the last that it had passed.
        """
        reached = self._note(trial, self._failed.pop(trial, shown))
        if reached in self._arrived and trial not in self._passed[reached]:
            self._waiting[trial] = reached
            return True
        self._running[trial] = _Course(reached, None, self._after(reached))
        return False

    def recall(self, trial: str, shown: Iterable[tuple[int, float]]) -> None:
        """A trial of an earlier start of the sweep: others are compared with it, also where it does not begin again."""
        reached = self._note(trial, shown)
        self._any_done |= reached >= self._steps[-1]

    def report(self, trial: str, step: int, value: float, now_s: float) -> bool:
        """A trial has come to a step.

        Returns:
            Whether it waits there.
        """
        course = self._running[trial]
        if course.seen_s is not None and step > course.step:
            self._paces.append((now_s - course.seen_s) / (step - course.step))
        course.step, course.seen_s, course.goal = step, now_s, self._after(step)
        if step not in self._arrived or trial in self._passed[step]:
            return False
        self._arrived[step][trial] = value
        self._waiting[trial] = step
        del self._running[trial]
        return True

    def leave(self, trial: str, *, done: bool = False) -> None:
        """A trial has ended, wherever it was; ``done`` if at its end."""
        self._running.pop(trial, None)
        self._waiting.pop(trial, None)
        self._any_done |= done

    def fail(self, trial: str) -> None:
        """A trial is lost: no other is compared with it, unless it begins again."""
        self.leave(trial)
        shown = [(rung, there.pop(trial)) for rung, there in self._arrived.items() if trial in there]
        self._failed[trial] = [(rung, value) for rung, value in shown if trial in self._passed[rung]]

    def promote(self, trial: str) -> None:
        """A waiting trial takes a place, and goes on to its next rung; a filler, if it is not among the best share."""
        rung = self._waiting.pop(trial)
        self._passed[rung].add(trial)
        fills = bool(self._running) and trial not in self._best_share(rung)
        self._running[trial] = _Course(rung, None, self._after(rung), fills)

    def best(self) -> str | None:
        """The waiting trial that is among the best share of its rung; of several, the best one of the highest rung."""
        for rung in reversed(self._arrived):
            found = (trial for trial in self._best_share(rung) if self._waiting.get(trial) == rung)
            if best := next(found, None):
                return best
        return None

    def filler(self, now_s: float) -> str | None:
        """The waiting trial for a place that no other takes: the furthest that costs no time; of these, the best.

        Where none runs and none has come to its end, that is the best one of the highest rung.
        """
        if not self._running and self._any_done:
            return None
        left_s = self._left_s(now_s)
        for rung in reversed(self._arrived):
            found = next((trial for trial in self._ranked(rung) if self._waiting.get(trial) == rung), None)
            if found and (not self._running or self._takes_s(self._after(rung) - rung) <= MARGIN * left_s):
                return found
        return None

    def _note(self, trial: str, shown: Iterable[tuple[int, float]]) -> int:
        """Put what a trial has shown on the rungs; the step that it has reached."""
        reached = 0
        for step, value in shown:
            if reached in self._arrived:
                self._passed[reached].add(trial)
            if step in self._arrived:
                self._arrived[step][trial] = value
            reached = step
        return reached

    def _after(self, step: int) -> int:
        return next((goal for goal in self._steps if goal > step), self._steps[-1])

    def _ranked(self, rung: int) -> list[str]:
        """All that have come to a rung, the lowest value first."""
        return sorted(self._arrived[rung], key=self._arrived[rung].__getitem__)

    def _best_share(self, rung: int) -> list[str]:
        return self._ranked(rung)[: int(len(self._arrived[rung]) / self._reduction)]

    def _takes_s(self, steps: int) -> float:
        return steps * statistics.median(self._paces) if self._paces else float("inf")

    def _left_s(self, now_s: float) -> float:
        """Seconds until all that run by right have come to their rungs; zero where that is not known."""
        if not self._paces:
            return 0.0
        by_right = [course for course in self._running.values() if not course.fills]
        seen = [(course, now_s if course.seen_s is None else course.seen_s) for course in by_right]
        return max((self._takes_s(one.goal - one.step) - (now_s - at_s) for one, at_s in seen), default=0.0)
