"""Trials on Ray Tune, from a sampler's proposals to results.

Tune schedules: it starts processes, keeps them warm, asks its scheduler at every validation. What is tried, the ledger
and the budget are ours (``book``), and so is the way a trial ends (``stepwise``).
"""

import functools
import gc
import logging
import math
import os
import time
from typing import Any

from ray import tune
from ray.tune import Stopper

from rayllm.core import storage
from rayllm.core.errors import SavedForRerun
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines import ray_runtime
from rayllm.pipelines.nodes import live_nodes
from rayllm.pipelines.train.crew.stopping import StopRequest
from rayllm.pipelines.train.job import STOP_FILE
from rayllm.pipelines.train.planning import plan_packed
from rayllm.pipelines.tune.book import Book
from rayllm.pipelines.tune.branch import branching
from rayllm.pipelines.tune.capacity import Needs, needs_of
from rayllm.pipelines.tune.nested import train_trial
from rayllm.pipelines.tune.population import Exploring
from rayllm.pipelines.tune.preparing import Course, prepare_training
from rayllm.pipelines.tune.progress import Surroundings
from rayllm.pipelines.tune.schedulers import Around, Judged, build_scheduler
from rayllm.pipelines.tune.search import Search
from rayllm.pipelines.tune.trainable import TrialProcess
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.pipelines.tune.watch import Silence, Watch
from rayllm.tune.replicates import fresh_seeds, screening
from rayllm.tune.results import SEED, Ledger, TrialResult
from rayllm.tune.samplers.sampler import Sampler
from rayllm.tune.schedulers import PbtScheduler

#: Tune's own loggers, traces and snapshots are not wanted: results are in the ledger, causes on the console, traces in
#: files. A trial's process gets a minute to leave its loop before it is killed; signals are ours.
ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "60",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_THRESHOLD_S": "10",
}
#: What the process of a trial with workers of its own holds: no CPU, a place on the head's node.
BESIDE_DRIVER = {"node:__internal_head__": 0.001}
#: Tune's own files, removed at the end.
SCRATCH = ".ray-tune"
#: Seconds between looks at the nodes.
LOOK_S = 2.0
#: A trial whose process died is tried again; one that failed with an error is not. Tune counts the death of an idle
#: process that a trial was about to take twice.
RETRIES = 2


def run_trials(sampler: Sampler, sweep: Sweep, ledger: Ledger) -> list[TrialResult]:
    """Train what a sampler proposes, as many trials at a time as fit, until it is done or the budget is spent.

    Args:
        sampler: Proposes settings; is told every result, also of what it proposes and the ledger holds already.
        sweep: What the trials have in common.
        ledger: Takes each result as soon as it is known; trials that ended in it do not run again.

    Returns:
        The results of what was proposed, in the order in which they became known.

    Raises:
        SetupError: If no node can hold a trial.
        SavedForRerun: If the sweep was interrupted; the trials that ran go on from their checkpoints next time.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray_runtime.ensure_ray(sweep.ray)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it would say, the book says
    nodes = live_nodes()
    needs = needs_of(sweep.settings, nodes)
    book = Book(sweep, sampler, ledger, needs)
    stop_file = storage.join(storage.absolute(sweep.directory), STOP_FILE)
    scratch = storage.join(sweep.directory, SCRATCH)
    _settle()
    with StopRequest(stop_file) as stop:
        stop.clear()
        try:
            _tuner(book, sweep, ledger, needs, stop, stop_file, scratch).fit()
        finally:
            book.keep()
            stop.clear()
            storage.remove(scratch)
    if stop.asked:
        names = ", ".join(entry.run.trial.name for entry in book.live.values())
        raise SavedForRerun(
            "the sweep was interrupted", why=f"not finished: {names}", fix="run the same command again to go on"
        )
    return book.results


def _settle() -> None:
    """Have Python's collector look no more at what is there now: the imports alone take it a quarter of a second.

    A trial that is about to start would wait for that.
    """
    gc.collect()
    gc.freeze()


def _tuner(
    book: Book, sweep: Sweep, ledger: Ledger, needs: Needs, stop: StopRequest, stop_file: str, scratch: str
) -> tune.Tuner:
    surroundings = Surroundings(
        storage.absolute(sweep.packed_uri),
        storage.absolute(sweep.trials),
        stop_file,
        needs,
        train_trial,
        sweep.reference_uri and storage.absolute(sweep.reference_uri),
    )
    total_steps = plan_packed(sweep.config, PackedData.open(sweep.packed_uri)).total_steps
    begun = branching(sweep.config)
    course, kind = Course(total_steps, begun.step if begun else 0), sweep.settings.scheduler
    prepare = functools.partial(prepare_training, kind, course)
    room = Room(needs, whole=isinstance(kind, PbtScheduler))
    around = Around(Exploring(sweep, prepare, book.changes), room, lambda: book.over)
    confirmed = fresh_seeds(sweep.settings.seed, sweep.settings.significance.seeds)
    stands = book.before.trials.items()
    earlier = {trial: stand.curve for trial, stand in stands if stand.settings.get(SEED) not in confirmed}
    scheduler = Judged(build_scheduler(kind, course, around), sweep.judge, course.origin(kind), earlier=earlier)
    scheduler.recall(screening(ledger.results, confirmed))
    scheduler.go_on(book.before.furthest)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(room.places())
    alone = needs.workers == 1
    held = {"cpu": needs.cpus, "gpu": needs.gpus} if alone else {"cpu": 0.0, **BESIDE_DRIVER}
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(TrialProcess, surroundings=surroundings), held),
        tune_config=tune.TuneConfig(
            search_alg=Search(book, room, prepare, scheduler),
            scheduler=scheduler,
            reuse_actors=True,
            num_samples=-1,
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=storage.absolute(scratch),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
            callbacks=[Watch(book, needs, stop), Silence()],
            stop=Interrupted(stop),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )


class Room:
    """How many trials may live: as many as the nodes have room for, looked at every few seconds.

    Args:
        needs: What a trial holds.
        whole: Whether all must live together, as a population does; they take turns.
    """

    def __init__(self, needs: Needs, *, whole: bool) -> None:
        self._needs, self._whole = needs, whole
        self._looked_s, self._places = 0.0, 1

    def __call__(self) -> float:
        """The number now."""
        return math.inf if self._whole else self.places()

    def places(self) -> int:
        """How many the nodes have room for; at least one, which then waits."""
        if time.monotonic() - self._looked_s > LOOK_S:
            self._looked_s = time.monotonic()
            self._places = max(
                1, self._needs.trials([(node.cpus, node.gpus) for node in live_nodes() if not node.leaving])
            )
        return self._places


class Interrupted(Stopper):
    """Ends the sweep once it was asked to; each trial saves first, by the same request."""

    def __init__(self, stop: StopRequest) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is ended by this."""
        return False

    def stop_all(self) -> bool:
        """Whether somebody asked."""
        return self._stop.asked
