"""A trial on Ray Tune: a process that stays warm between trials and trains each from validation to validation.

One ``step`` is the training up to its next validation. What a trial of one worker needs (imports, packed data,
tokenizer, compiled kernels) is there already when the process takes its second. A trial of several workers is a run of
the crew as ``rayllm train`` starts it, driven from here. Both end themselves: nothing that trains is ever killed.
"""

import os
import time
from dataclasses import replace
from functools import cache
from typing import Any

from ray import tune

from rayllm.core import storage
from rayllm.core.checkpoint import DIRECTORY, list_checkpoints
from rayllm.core.errors import RunFailed
from rayllm.pipelines.train.job import Job, with_absolute_paths
from rayllm.pipelines.train.metric_files import METRICS
from rayllm.pipelines.train.worker import StopFile
from rayllm.pipelines.tune.progress import Order, Progress, Surroundings
from rayllm.pipelines.tune.standing import forked
from rayllm.pipelines.tune.stepwise import Gate, Stepwise, point_of
from rayllm.report.metrics_log import read_metrics
from rayllm.tune.results import Point


class TrialProcess(tune.Trainable):
    """One process of a sweep; trains one trial after another."""

    def setup(  # pyright: ignore[reportIncompatibleMethodOverride] - `tune.with_parameters` adds one
        self, config: dict[str, Any], surroundings: Surroundings
    ) -> None:
        """Take the first trial."""
        self._around = surroundings
        self._free_since, self._reused = 0.0, False
        self._take(config["order"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take another trial, once the one before has left its loop."""
        self.cleanup()
        self._reused = True
        self._take(new_config["order"])
        return True

    def step(self) -> dict[str, Any]:
        """Train to the next validation."""
        reached = self._course().advance()
        self._free_since = time.time()
        begun_s = self._training.begun_s if self._training and self._training.begun_s else self._free_since
        progress = Progress(
            reached=reached,
            earlier=self._earlier,
            turn_s=self._turn_s,
            wall_s=self._free_since - self._turn_s,
            start_s=begun_s - self._turn_s,
            reused=self._reused,
            parent=self._parent,
            settings=self._order.settings,
            directory=self._directory,
        )
        self._step = reached.point.step if reached.point else self._step
        return {"progress": progress, "step": self._step, "done": bool(reached.ended)}

    def cleanup(self) -> None:
        """Have the trial leave its loop."""
        if self._training is not None:
            self._training.end()
            self._training = None

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Name the checkpoint of the present step, or the first after it, once it is committed; it stays where it is.

        What trains on beside this saves and ends first: who pauses must hold nothing, and learn nothing more.
        """
        if self._around.needs.workers > 1:
            self.cleanup()
        where = storage.join(self._directory, DIRECTORY)
        deadline = time.monotonic() + self._order.config.train.checkpoint.timeout_s
        while not (found := [one for one in list_checkpoints(where) if one.step >= self._step]):
            if time.monotonic() > deadline:
                raise RunFailed(
                    "a trial has no checkpoint to hand over",
                    where=self._directory,
                    why=f"none of step {self._step:,} was committed within `train.checkpoint.timeout_s`",
                )
            time.sleep(0.05)
        return {"uri": found[0].uri, "parent": self._parent}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Go on from a checkpoint: the trial's own, or another's."""
        assert checkpoint is not None
        uri, parent = str(checkpoint["uri"]), str(checkpoint["parent"])
        if not uri.startswith(f"{self._base}/"):
            self._directory, self._parent = storage.join(self._base, uri.rpartition("/")[2]), uri
        else:
            self._directory, self._parent = uri.rpartition(f"/{DIRECTORY}/")[0], parent
        if self._parent:
            self._order = replace(self._order, config=forked(self._order.config, self._parent))

    def _take(self, order: Order) -> None:
        os.chdir(os.environ.get("TUNE_ORIG_WORKING_DIR", "."))  # Tune changes it; paths of a run file may be relative
        self._order = order
        self._turn_s = max(order.asked_s, self._free_since)
        self._base = storage.join(self._around.trials, self.trial_id)
        self._directory = order.directory or self._base
        self._training: Stepwise | None = None
        fork = order.config.train.fork
        self._parent, self._step = fork.source if fork else "", 0

    def _course(self) -> Stepwise:
        """The training that is under way; begun with the first step, when it is known where from."""
        if self._training is None:
            self._earlier = earlier_points(self._directory)
            self._training = Stepwise(self._train, waits=self._around.needs.workers == 1)
        return self._training

    def _train(self, gate: Gate) -> bool:
        around = self._around
        config = with_absolute_paths(self._order.config)
        job = Job(config, around.packed_uri, self._directory, reference_uri=around.reference_uri)
        return around.train(job, around.needs, gate, stop_asked(around.stop_file))


@cache
def stop_asked(uri: str) -> StopFile:
    """Whether all trials were asked to end; one watch for each process."""
    return StopFile(uri)


def earlier_points(directory: str) -> tuple[Point, ...]:
    """The validations that a trial has had already."""
    uri = storage.join(directory, METRICS)
    if not storage.exists(uri):
        return ()
    return tuple(point_of(record) for record in read_metrics(uri).validation)
