"""The book of a sweep: what is asked for, what runs, what has ended, and what it has cost. Knows no Ray.

In: a sampler, the ledger, the news of the trials. Out: the next trial to run, and results, each in the ledger and told
to the sampler the moment that it is known.
"""

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rayllm.core import storage
from rayllm.core.artifact import content_hash
from rayllm.core.checkpoint import DIRECTORY
from rayllm.core.errors import ConfigError
from rayllm.core.log import get_logger
from rayllm.pipelines.tune.capacity import Needs
from rayllm.pipelines.tune.progress import Order, Progress
from rayllm.pipelines.tune.standing import Stand, Standing, forked, read_standing, write_standing
from rayllm.pipelines.tune.trial_runs import Sweep, TrialRun
from rayllm.tune.budget import Budget, Running
from rayllm.tune.results import SEED, Ledger, Point, TrialResult, group_of
from rayllm.tune.samplers.sampler import Sampler
from rayllm.tune.schedulers import PbtScheduler
from rayllm.tune.space import Settings

logger = get_logger(__name__)


@dataclass
class Entry:
    """A trial that was asked for and has not ended.

    Attributes:
        run: The trial.
        settings: What it trains with now; a population changes them.
        begun_s: When it got the resources that it holds, in seconds since 1970; 0 while it holds none.
        held_s: Seconds of earlier turns, of a trial that takes turns with others.
        curve: Its validations by step.
        earlier_s: Seconds that earlier starts of the sweep spent on it.
        earlier_starts_s: Those of them before a first step.
        stints: Seconds by when a process took it up.
        starts: Those of them before a first step.
        directories: Where it has written; the last one is where it does.
        first: What it reported first.
        last: What it reported last.
        others: Other settings that mean the same training, as 1 for 1.0, and were asked for while it ran.
    """

    run: TrialRun
    settings: Settings
    begun_s: float = 0.0
    held_s: float = 0.0
    curve: dict[int, Point] = field(default_factory=dict)
    earlier_s: float = 0.0
    earlier_starts_s: float = 0.0
    directories: list[str] = field(default_factory=list)
    stints: dict[float, float] = field(default_factory=dict)
    starts: dict[float, float] = field(default_factory=dict)
    first: Progress | None = None
    last: Progress | None = None
    others: list[Settings] = field(default_factory=list)

    def spent_s(self, now_s: float) -> float:
        """Seconds for which it has held resources, over all starts of the sweep."""
        return self.earlier_s + self.held_s + (now_s - self.begun_s if self.begun_s else 0.0)

    @property
    def starts_s(self) -> float:
        """Seconds before a first step, over all starts of the sweep."""
        return self.earlier_starts_s + sum(self.starts.values())

    def stand(self, now_s: float) -> Stand:
        """Where it stands, for the next start of the sweep."""
        return Stand(
            settings=self.settings,
            wall_s=round(self.spent_s(now_s), 3),
            starts_s=round(self.starts_s, 3),
            curve=[self.curve[step] for step in sorted(self.curve)],
            directory=self.directories[-1] if self.directories[1:] else "",
            parent=self.last.parent if self.last else "",
        )


class Book:
    """Keeps the trials of one call of ``run_trials``.

    Args:
        sweep: What they have in common.
        sampler: Proposes them.
        ledger: Takes the results; what it holds already never runs again.
        needs: What a trial holds.
    """

    def __init__(self, sweep: Sweep, sampler: Sampler, ledger: Ledger, needs: Needs) -> None:
        self._sweep, self._sampler, self._ledger, self._needs = sweep, sampler, ledger, needs
        self.live: dict[str, Entry] = {}
        self.results: list[TrialResult] = []
        self.exhausted = self._over = False
        self._numbers = {result.key: result.trial for result in ledger.results}
        self.before = read_standing(sweep.directory)
        self.changes = self.before.changes
        self._waiting = dict(self.before.trials)
        self._unused: list[str] = []
        self._population = isinstance(sweep.settings.scheduler, PbtScheduler)
        self._began_s = time.time()
        self._budget = Budget(sweep.settings.budget, earlier_s=self.before.wall_s, began_s=self._began_s)

    def next_run(self) -> TrialRun | None:
        """The next trial; None if there is none now, or, once ``exhausted``, ever."""
        while not self.exhausted:
            settings = None if self._out_of_budget() else self._sampler.ask()
            if settings is None:
                self.exhausted = self._sampler.done or self._out_of_budget()
                return None
            run = self._plan(settings)
            if run is None:
                continue
            if found := self._ledger.finished().get(run.key):
                self.results.append(found)
                self._unused += _checkpoints_below(run.directory) if self._population else []
                self._tell(found, settings)
            elif run.id in self.live:
                self.live[run.id].others.append(settings)
            else:
                self.live[run.id] = self._entry(run, settings)
                return run
        return None

    def order(self, run: TrialRun) -> Order:
        """What its process is told: to begin it, or to go on as what it was when the sweep was interrupted."""
        stand = self.before.trials.get(run.id)
        if stand is None or not stand.directory:
            return Order(run.config, run.trial.settings, time.time())
        config = self._sweep.plan(run.trial.index, stand.settings).config
        return Order(forked(config, stand.parent), stand.settings, time.time(), stand.directory)

    @property
    def over(self) -> bool:
        """Whether the budget is spent: no trial begins, and none goes on."""
        return self._over

    def begin(self, trial: str) -> None:
        """A trial has got its resources."""
        entry = self.live[trial]
        entry.begun_s = entry.begun_s or time.time()

    def pause(self, trial: str) -> None:
        """A trial has let go of its resources, and waits to go on.

        A sampler learns now what it came to: it may wait long, or for ever. What it comes to later is told as well. (In
        a population all go on.)
        """
        entry = self.live.get(trial)
        if entry is None or not entry.begun_s:
            return
        entry.held_s, entry.begun_s = entry.held_s + time.time() - entry.begun_s, 0.0
        if entry.curve and not self._population:
            result = self._result(entry, entry.curve[max(entry.curve)], "", "stopped").model_copy(update={"cut": True})
            self._tell_all(result, entry.others)
            logger.info("%s", self._line(result, "waits"))

    def note(self, trial: str, progress: Progress) -> None:
        """A trial has reported."""
        entry, point = self.live[trial], progress.reached.point
        entry.first, entry.last, entry.settings = entry.first or progress, progress, progress.settings
        taken_up = progress.turn_s not in entry.stints
        entry.stints[progress.turn_s], entry.starts[progress.turn_s] = progress.wall_s, progress.start_s
        entry.curve |= {one.step: one for one in progress.earlier}
        if point is not None:
            if taken_up:  # from a checkpoint before what it had shown
                entry.curve = {step: one for step, one in entry.curve.items() if step < point.step}
            entry.curve[point.step] = point
        if progress.directory != entry.directories[-1]:
            entry.directories.append(progress.directory)
            self.changes += 1
            self.keep()

    def close(self, trial: str, error: str = "", trace: str = "") -> None:
        """A trial has ended: by itself, by its scheduler, by an error, or for the budget, and then may go on one day.

        Args:
            trial: Its id.
            error: Why it failed, where it could not tell itself.
            trace: More of it, for a file.
        """
        entry = self.live.pop(trial)
        self._waiting.pop(trial, None)
        reached = entry.last.reached if entry.last else None
        if reached is not None and reached.ended == "failed":
            error, trace = reached.error, reached.trace
        last = entry.curve[max(entry.curve)] if entry.curve else None
        ended = reached is not None and reached.ended == "finished"
        if not error and ended and (last is None or not math.isfinite(self._sweep.judge(last.metrics, last.tokens))):
            error = f"its last validation gave no finite {self._sweep.settings.objective}"
        if error:
            storage.write_text(storage.join(entry.run.directory, "error.txt"), trace or error)
        result = self._result(entry, last, error, "failed" if error else "finished" if ended else "stopped")
        waited = self._over and not entry.begun_s and bool(entry.curve)
        if not error and (waited or (reached is not None and reached.ended == "asked")):
            result = result.model_copy(update={"cut": True})
            self._waiting[trial] = entry.stand(time.time()).model_copy(update={"wall_s": result.wall_s})
        else:
            self._unused += [storage.join(directory, DIRECTORY) for directory in entry.directories]
        self._settle(result, entry.others)
        self._tidy()

    def _tidy(self) -> None:
        """Remove the checkpoints of ended trials, unless they are to be kept, or a population may need them."""
        if self._population and (self.live or self._waiting):
            return
        if not self._sweep.settings.keep_checkpoints:
            for uri in self._unused:
                storage.remove(uri)
        self._unused = []

    def overdue(self) -> bool:
        """Whether the trials that run now must end, for the budget; no other begins then."""
        now_s = time.time()
        self._over = self._over or now_s >= self._budget.deadline_s(self._ended(), self._running(), now_s)
        return self._over

    def keep(self) -> None:
        """Write down where the sweep stands, for its next start."""
        now_s = time.time()
        stands = {trial: entry.stand(now_s) for trial, entry in self.live.items() if entry.begun_s or entry.held_s}
        wall_s = round(self.before.wall_s + now_s - self._began_s, 3)
        standing = Standing(wall_s=wall_s, changes=self.changes, trials=self._waiting | stands)
        write_standing(self._sweep.directory, standing)

    def _entry(self, run: TrialRun, settings: Settings) -> Entry:
        """A trial that was asked for; as it stood, if the sweep was interrupted while it ran."""
        stand = self.before.trials.get(run.id)
        own = storage.absolute(run.directory)
        if stand is None:
            return Entry(run, dict(settings), directories=[own])
        curve = {point.step: point for point in stand.curve}
        moved = [stand.directory] if stand.directory else []
        entry = Entry(run, stand.settings, curve=curve, directories=[own, *moved])
        return replace(entry, earlier_s=stand.wall_s, earlier_starts_s=stand.starts_s)

    def _plan(self, settings: Settings) -> TrialRun | None:
        """The trial of some settings; where they make no valid run, it has failed already."""
        number = next(one for one in itertools.count() if one not in self._numbers.values())
        try:
            run = self._sweep.plan(number, settings)
        except ConfigError as error:
            key = content_hash({"settings": settings})
            number = self._numbers.setdefault(key, number)
            seed = int(str(settings.get(SEED, self._sweep.config.seed)))
            group = group_of(settings)
            self._settle(
                TrialResult(
                    trial=number, key=key, settings=settings, group=group, seed=seed, status="failed", error=str(error)
                )
            )
            return None
        known = self._numbers.setdefault(run.key, number)
        return run if known == number else self._sweep.plan(known, settings)

    def _result(self, entry: Entry, last: Point | None, error: str, status: str) -> TrialResult:
        first, latest = entry.first, entry.last
        start_s = first.start_s if first else 0.0
        return TrialResult(
            trial=entry.run.trial.index,
            key=entry.run.key,
            settings=entry.settings,
            group=group_of(entry.settings),
            seed=entry.run.config.seed,
            curve=[entry.curve[step] for step in sorted(entry.curve)],
            metrics=last.metrics if last and not error else {},
            status=status,  # pyright: ignore[reportArgumentType] - one of three
            tokens=last.tokens if last else 0,
            wall_s=round(entry.earlier_s + sum(entry.stints.values()), 3),
            start_s=round(start_s, 3),
            restarts_s=round(entry.starts_s - start_s, 3),
            cpus=self._needs.cpus * self._needs.workers,
            gpus=self._needs.gpus * self._needs.workers,
            reused=first.reused if first else False,
            parent=latest.parent if latest else "",
            error=error,
        )

    def _settle(self, result: TrialResult, others: Sequence[Settings] = ()) -> None:
        """Write a result down, tell it to the sampler (but for what was cut off and goes on) and to whoever watches."""
        self._ledger.append(result)
        self.results.append(result)
        if not result.cut:
            self._tell_all(result, others)
        self.keep()
        logger.info("%s", self._line(result))

    def _tell_all(self, result: TrialResult, others: Sequence[Settings]) -> None:
        for settings in (result.settings, *others):
            self._tell(result, settings)

    def _tell(self, result: TrialResult, settings: Settings) -> None:
        """Tell the sampler a result under the settings that it asked for."""
        self._sampler.tell(result.model_copy(update={"settings": settings, "group": group_of(settings)}))

    def _line(self, result: TrialResult, verb: str = "stopped") -> str:
        """A result for the console, its outcome first; the verb is for one that has not come to its end."""
        objective = self._sweep.settings.objective
        step = f" at step {result.curve[-1].step:,}" if result.curve else ""
        if result.status == "failed":
            outcome = f"failed: {result.error.splitlines()[0]}"
        elif result.curve:
            value = self._sweep.judge(result.metrics, result.tokens)
            outcome = f"{objective} {value:.4f}{f', {verb}{step}' if result.status == 'stopped' else ''}"
        else:
            outcome = "stopped before its first validation"
        limit = self._sweep.settings.budget.trials
        finished = self._ledger.finished().keys()
        done = f"{len(finished - self._confirmed())} done of {limit}" if limit else f"{len(finished)} done"
        start = f"start {result.start_s:.2f} s"
        start += f", {result.restarts_s:.2f} s to go on" if result.restarts_s else ""
        return f"trial-{result.trial:03d}: {outcome} ({result.wall_s:.0f} s, {start}; {done})"

    def _running(self) -> list[Running]:
        running = [entry for entry in self.live.values() if entry.begun_s]
        return [Running(entry.begun_s - entry.held_s - entry.earlier_s, self._needs.devices) for entry in running]

    def _out_of_budget(self) -> bool:
        """Whether no further trial may begin."""
        spent = self._budget.spent(self._ended(), self._running(), time.time())
        return self._over or not self._budget.allows_start(replace(spent, trials=len(self._counted())))

    def _ended(self) -> list[TrialResult]:
        """What trials have cost that hold nothing: ended, or waiting for their next turn. One that was cut off and has
        begun again has its seconds with it."""
        begun = [entry for entry in self.live.values() if entry.begun_s or entry.held_s or entry.earlier_s]
        keys = {entry.run.key for entry in begun}
        waiting = [self._result(entry, None, "", "stopped") for entry in begun if not entry.begun_s]
        return [result for result in self._ledger.results if not (result.cut and result.key in keys)] + waiting

    def _counted(self) -> set[str]:
        """Keys of the trials of this budget, those that wait for resources too; what failed before runs again."""
        live = {entry.run.key for entry in self.live.values()}
        return (live | {one.key for one in self.results} | self._ledger.finished().keys()) - self._confirmed()

    def _confirmed(self) -> set[str]:
        """Keys of what confirmed the leaders of an earlier, smaller budget: not among the trials of this one."""
        finished = self._ledger.finished().values()
        return {result.key for result in finished if SEED in result.settings} - {one.key for one in self.results}


def _checkpoints_below(directory: str) -> list[str]:
    """Where an ended trial has left checkpoints: its own, and those of where it went on from another's."""
    part = f"{DIRECTORY}/"
    places = {name.partition(part)[0] for name in storage.list_files(directory) if part in name}
    return [storage.join(directory, place + DIRECTORY) for place in sorted(places)]
