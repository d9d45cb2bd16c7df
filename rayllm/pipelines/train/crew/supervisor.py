"""A run as a series of starts: each trains with a fixed number of workers until it is done, fails, or is asked to stop.

When a start fails, the next goes on from the last checkpoint with as many workers as there is room for, unless restarts
do not help. When a node comes, or is about to be taken away, the workers are asked to save and stop, and the next start
has more of them, or others: no step is done twice.
"""

import dataclasses
import math
import time

import ray
import ray.exceptions

from rayllm.core import storage
from rayllm.core.checkpoint import list_checkpoints
from rayllm.core.errors import ClusterLost, SavedForRerun, SetupError
from rayllm.pipelines.nodes import Node, NodeWatch, live_nodes, reachable, room, unused
from rayllm.pipelines.train.crew.board import Said
from rayllm.pipelines.train.crew.failures import Ending, failed_run, find_cause, full_trace
from rayllm.pipelines.train.crew.fitting import SILENCE_S, Fitting, remove_records
from rayllm.pipelines.train.crew.sizing import Crew, Seat, describe_start, leaving_hosts, lost_seats, no_room, resize
from rayllm.pipelines.train.crew.stopping import StopRequest
from rayllm.pipelines.train.job import Job, read_attempt
from rayllm.train.console import Display
from rayllm.train.guards.watchdog import describe_stalls

POLL_S = 0.5
#: Seconds between looks at the nodes.
LOOK_S = 2.0
FAILURES = "failures"


class Supervisor:
    """Starts workers until the run is done, or cannot go on.

    Args:
        job: What to train.
        crew: The workers of the first start.
        display: Shows their records.
        stop: Whether a person or a scheduler asked the run to stop.
    """

    def __init__(self, job: Job, crew: Crew, display: Display, stop: StopRequest) -> None:
        self._job, self._crew, self._display, self._stop = job, crew, display, stop
        self._settings = job.config.train.workers
        self._low, self._high = self._settings.bounds(crew.count)
        self._failures, self._saved = 0, self._checkpoint()
        self._short_since: float | None = None
        self._change, self._places = "", math.inf
        self._grow_at = math.inf
        self._attempt = 0

    def run(self) -> Crew:
        """Train to the end.

        Returns:
            The workers of the last start.

        Raises:
            RayllmError: One of the run itself, which restarts cannot mend.
            ClusterLost: If Ray is gone.
            RunFailed: If restarts did not help.
            SavedForRerun: If the run was asked to stop and has saved.
            SetupError: If the cluster has had no room for too long.
        """
        watch = NodeWatch(LOOK_S)
        try:
            return self._run(watch)
        except ray.exceptions.RayError as error:  # whatever was asked: the driver's node is gone, or the head
            raise ClusterLost(
                "the Ray cluster was lost",
                where=f"ray.address={self._job.config.ray.address}",
                why=" ".join(str(error).split())[:200],
                fix=f"start Ray's head node again; {self._again()}",
            ) from error
        finally:
            watch.close()

    def _run(self, watch: NodeWatch) -> Crew:
        while True:
            ending = self._start(watch)
            if ending.outcome == "done":
                return self._crew
            if ending.outcome == "stopped" and not self._change:
                raise self._stopped("training was stopped and has saved a checkpoint")
            level, why = ("info", self._change) if ending.outcome else ("warning", self._judge(ending))
            before, self._crew = self._crew, self._muster()
            line = describe_start(read_attempt(self._job.directory) + 1, before, self._crew, why)
            self._job = dataclasses.replace(self._job, news=((level, line),))

    def _start(self, watch: NodeWatch) -> Ending:
        """One start of the workers, shown and watched to its end."""
        remove_records(self._job.directory)
        self._stop.clear()
        if self._stop.asked:
            raise self._stopped("training was stopped before it went on")
        self._change, self._places = "", math.inf
        self._grow_at = math.inf
        self._attempt = read_attempt(self._job.directory) + 1
        fitting = Fitting(self._job, self._crew)
        while True:
            fitting.join(POLL_S)
            ended = not fitting.is_alive()  # before the look, so that nothing said is missed
            said = fitting.look()
            self._show(said)
            if ended:
                fitting.release()
                return fitting.ending(said)
            if watch.silent_s > SILENCE_S:
                raise ray.exceptions.RaySystemError(f"its head has not answered for {watch.silent_s:.0f} s")
            self._look_at_nodes(said.seats, watch.nodes)

    def _show(self, said: Said) -> None:
        if said.seats:
            self._short_since = None
        for record in said.records:
            self._display.show(record)
            if record["kind"] == "train":
                self._grow_at = min(self._grow_at, time.monotonic() + self._settings.grow_after_s)

    def _look_at_nodes(self, seats: tuple[Seat, ...], nodes: list[Node]) -> None:
        """Ask the workers to save and stop where the run should go on with others."""
        if self._change or self._stop.asked or not seats:
            return
        if leaving := leaving_hosts(seats, nodes):
            self._change = f"node {', '.join(leaving)} is about to be taken away"
        elif time.monotonic() >= self._grow_at and (more := self._growth(nodes)):
            self._change, self._places = f"there is room for {more} more", self._crew.count + more
        if self._change:
            self._stop.write()

    def _growth(self, nodes: list[Node]) -> int:
        """How many workers more than now have a place that is free."""
        crew = self._crew
        wanted = min(self._high, room(nodes, crew.cpus, crew.gpus)) - crew.count
        return min(wanted, room(unused(nodes), crew.cpus, crew.gpus)) if wanted > 0 else 0

    def _judge(self, ending: Ending) -> str:
        """Look for the cause of a failed start.

        Returns:
            It, where another start may help.

        Raises:
            RayllmError: Where none does.
        """
        if ending.error is not None:
            raise ending.error
        directory = self._job.directory
        attempt = self._attempt  # also where it ended before its rank 0 counted it
        lost = lost_seats(ending.seats, reachable(live_nodes()))
        cause = find_cause(ending, describe_stalls(directory, attempt), lost)
        trace = storage.join(directory, FAILURES, f"attempt-{attempt}.txt")
        storage.write_text(trace, full_trace(ending))
        restarts, saved = self._failures, self._checkpoint()
        if ending.no_room:
            self._count_shortage()
        else:
            restarts = self._failures if saved == self._saved else 0
            self._failures, self._saved = restarts + 1, saved
        if self._stop.asked or self._failures > self._settings.max_failures:
            from rayllm.pipelines.train.needs import with_needs  # imports torch

            cause = with_needs(cause, self._job)
            raise failed_run(cause, attempt=attempt, restarts=restarts, again=self._again(), trace=trace)
        self._tell("warning", f"attempt {attempt} ended: {cause.what}; {self._goes_on()}")
        return cause.what

    def _count_shortage(self) -> None:
        """Ray found no place for so many workers: the next start has fewer, or the fewest until it has been too long.

        Raises:
            SetupError: If the fewest have found no place for ``train.workers.wait_s``.
        """
        now, fewest = time.monotonic(), self._crew.count == self._low
        since = self._short_since if fewest else None
        if since is not None and now - since > self._settings.wait_s:
            raise self._too_few(unused(reachable(live_nodes())))
        self._short_since = now if since is None else since
        self._places = max(self._low, self._crew.count - 1)

    def _muster(self) -> Crew:
        """Wait until the cluster has room for the fewest workers; take as many as it has room for.

        Raises:
            SavedForRerun: If the run was asked to stop meanwhile.
            SetupError: If it takes longer than ``train.workers.wait_s``.
        """
        since, told = self._short_since or time.monotonic(), False
        while True:
            nodes = reachable(live_nodes())
            if self._short_since is not None:
                nodes = unused(nodes)
            places = min(room(nodes, self._crew.cpus, self._crew.gpus), self._places)
            if crew := resize(self._crew, self._low, self._high, int(places)):
                return crew
            if self._stop.asked:
                raise self._stopped("training was stopped while it waited for nodes")
            if time.monotonic() - since > self._settings.wait_s:
                raise self._too_few(nodes)
            if not told:
                told = True
                self._tell("warning", f"waiting for nodes: there is room for {places} of {self._low} workers")
            time.sleep(LOOK_S)

    def _too_few(self, nodes: list[Node]) -> SetupError:
        lacking = no_room(dataclasses.replace(self._crew, count=self._low), nodes)
        return SetupError(
            f"the cluster has had room for fewer than {self._low} workers for {self._settings.wait_s:g} s",
            why=lacking.why if self._short_since is None else f"{lacking.why}; others hold the rest",
            fix=f"add nodes, or set train.workers.count: [fewest, most]; {self._again()}",
        )

    def _stopped(self, what: str) -> SavedForRerun:
        return SavedForRerun(what, where=self._job.checkpoints, fix="run the same command again; it goes on from there")

    def _checkpoint(self) -> str:
        """Name of the last checkpoint, or an empty string."""
        found = list_checkpoints(self._job.checkpoints)
        return found[-1].uri.rpartition("/")[2] if found else ""

    def _goes_on(self) -> str:
        name = self._checkpoint()
        return f"going on from {name}" if name else "starting again, nothing was saved yet"

    def _again(self) -> str:
        name = self._checkpoint()
        return f"run the same command again{f': it goes on from {name}' if name else '; nothing was saved yet'}"

    def _tell(self, level: str, message: str) -> None:
        self._display.show({"kind": "event", "level": level, "message": message})
