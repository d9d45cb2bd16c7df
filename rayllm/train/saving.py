"""Checkpoints beside training: a snapshot on the step path, all the rest in a thread.

In: a run between two steps. Out: a published checkpoint, some steps later. The thread writes the snapshot's files,
hashing them on the way, moves them to the run's storage, commits, announces, looks whether all is there, and prunes.
Ranks agree after each of these parts over a process group of their own, which only this thread uses, so that nothing
gets between the collectives of training: a rank that cannot write fails the save on all, and a commit means that every
rank's files are there.

At most one save is at work. Who needs it finished waits: the next save, the end of the run, and the step that learns
that it has failed.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from rayllm.core import storage
from rayllm.core.artifact import FileRecord
from rayllm.core.checkpoint import (
    COMMIT,
    Commit,
    clear_staging,
    pin,
    publish_directory,
    staging_directory,
    staging_path,
    try_to_set_aside,
    verify_checkpoint,
)
from rayllm.core.errors import ArtifactDamaged, RayllmError, RunFailed
from rayllm.core.faults import fault
from rayllm.core.log import get_logger
from rayllm.train import collective, retention
from rayllm.train.checkpoint import write_snapshot
from rayllm.train.run import Run
from rayllm.train.snapshot import Snapshot, Snapshots

#: Seconds between two signs of life of a rank that waits for its thread.
BEAT_S = 0.5
#: Seconds that a run which ends with an error leaves to the save at work.
GRACE_S = 60.0
FIX = "free space or repair the storage, then run the same command again; it goes on from the last checkpoint"
T = TypeVar("T")

logger = get_logger(__name__)


class Saver:
    """Saves one rank's part of the checkpoints of a run; all ranks call it together.

    Leaving its ``with`` block waits for what is at work.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._snapshots = Snapshots(run.engine)
        self._group = collective.new_group()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self._errands: list[Future[Any]] = []
        self._step, self._since = 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None:
                self.wait()
            elif isinstance(error, RayllmError):  # of all ranks; where one is lost, no save can be finished
                self._finish_quietly()
        finally:
            self._thread.shutdown(wait=False)

    @property
    def failed(self) -> bool:
        """Whether something has failed on this rank; ``wait`` says what."""
        return any(errand.done() and errand.exception() is not None for errand in self._errands)

    def save(self) -> None:
        """Save the current step: return when training may go on.

        Raises:
            RunFailed: On every rank, if the save before, or a synchronous one, failed on one.
        """
        self.wait()
        state = self._run.state
        fault("save.snapshot", state.step, state.attempt)
        snapshot = self._snapshots.take(state)
        self._step, self._since = state.step, time.monotonic()
        self._errands.append(self._thread.submit(self._make, snapshot))
        if not self._run.config.checkpoint.asynchronous:
            self.wait()

    def note_best(self, value: float) -> None:
        """Once the save of the current step is finished, remember it if it is the best so far.

        Args:
            value: Of the metric that ``train.checkpoint.best`` names.
        """
        step = self._run.state.step
        self._errands.append(self._thread.submit(self._together, lambda: self._note_best(step, value)))

    def pin(self, uri: str) -> None:
        """Once what is at work is finished, mark a checkpoint as one to keep."""
        self._errands.append(self._thread.submit(self._together, lambda: self._pin(uri)))

    def wait(self) -> None:
        """Return when nothing is at work.

        Raises:
            RayllmError: On every rank, what failed first on one.
        """
        if not self._errands:
            return
        errors = [error for errand in self._errands if (error := self._outcome(errand))]
        self._errands.clear()
        for error in collective.gather(errors[0] if errors else None):
            if error is not None:
                raise error

    def _outcome(self, errand: Future[Any]) -> RayllmError | None:
        """What an errand failed with. The watchdog learns that this rank only waits, until a save takes too long."""
        limit_s = self._run.config.checkpoint.timeout_s
        while True:
            try:
                error = errand.exception(timeout=BEAT_S)
            except TimeoutError:
                if time.monotonic() - self._since < limit_s:
                    self._run.watchdog.beat(self._run.state.step, f"waiting for the checkpoint of step {self._step}")
                continue
            if error is not None and not isinstance(error, RayllmError):
                raise error
            return error

    def _finish_quietly(self) -> None:
        """The run ends with an error: what is at work may be finished, but must not hide it."""
        deadline = time.monotonic() + GRACE_S
        for errand in self._errands:
            try:
                error = errand.exception(timeout=max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                logger.warning("the checkpoint of step %d was not finished", self._step)
                return
            if error is not None:
                logger.warning("the checkpoint of step %d failed: %s", self._step, error)

    def _make(self, snapshot: Snapshot) -> None:
        """All of a save that follows its snapshot."""
        run, step, attempt = self._run, snapshot.step, snapshot.attempt
        uri = storage.join(run.checkpoints, snapshot.name)
        manifests = self._together(lambda: self._stage(snapshot))
        self._together(lambda: publish_directory(staging_path(run.checkpoints, snapshot.name, snapshot.rank), uri))
        fault("save.moved", step, attempt)
        self._together(lambda: self._commit(snapshot, manifests, uri))
        fault("save.published", step, attempt)
        fault("report.before", step, attempt)
        run.services.announce(snapshot.name)
        fault("report.after", step, attempt)
        self._together(lambda: self._look_again(uri))
        self._together(self._tidy)

    def _stage(self, snapshot: Snapshot) -> FileRecord:
        """Write this rank's files."""
        run = self._run
        staging = staging_directory(run.checkpoints, snapshot.name, snapshot.rank)
        return write_snapshot(snapshot, run.attachments, staging)

    def _commit(self, snapshot: Snapshot, manifests: list[FileRecord], uri: str) -> None:
        """Publish: every rank's files are in place, and the commit names their manifests."""
        if snapshot.rank == 0:
            self._run.services.claim()
            fault("publish.commit", snapshot.step, snapshot.attempt)
            commit = Commit(
                step=snapshot.step, attempt=snapshot.attempt, world_size=snapshot.world_size, manifests=manifests
            )
            storage.write_text(storage.join(uri, COMMIT), commit.model_dump_json(indent=1))

    def _look_again(self, uri: str) -> None:
        """See that what was published is there in full, while older checkpoints still are.

        Raises:
            RunFailed: If it is not: a storage that loses files of this checkpoint may lose those of the next.
        """
        if self._run.engine.rank == 0:
            try:
                verify_checkpoint(uri, deep=False)
            except ArtifactDamaged as error:
                why = f"published, and then {error.why}{try_to_set_aside(uri, error.why)}; older ones are kept"
                raise RunFailed("saving a checkpoint failed", where=uri, why=why, fix=FIX) from error

    def _tidy(self) -> None:
        """Remove what is no longer needed."""
        if self._run.engine.rank == 0:
            clear_staging(self._run.checkpoints)
            keep, spikes = self._run.config.checkpoint, self._run.config.guards.spikes
            margin_steps = spikes.margin_steps if spikes.action == "rollback" else None
            retention.prune(
                self._run.checkpoints, keep.keep_last, keep_best=keep.best is not None, margin_steps=margin_steps
            )

    def _pin(self, uri: str) -> None:
        if self._run.engine.rank == 0:
            pin(uri)

    def _note_best(self, step: int, value: float) -> None:
        """Compare the checkpoint of a step with the best so far."""
        config = self._run.config.checkpoint.best
        if config is not None and self._run.engine.rank == 0:
            retention.note_best(self._run.checkpoints, step, config, value)

    def _together(self, part: Callable[[], T]) -> list[T]:
        """Do a part on every rank of this thread's group; none goes on where one could not."""
        return collective.together(
            part,
            what="saving a checkpoint",
            where=self._run.checkpoints,
            fix=FIX,
            group=self._group,
        )
