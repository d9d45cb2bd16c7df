"""One actor for a start of the workers: Ray Train's controller, with the board and the workers' barrier inside it.

As actors of their own, each of these would be a process: started beside the workers, which takes a second and more, and
awake a hundred times a second afterwards. Here they share one. The controller waits for its workers where it stands, so
what workers and driver say to it goes through a concurrency group, which Ray gives a thread of its own.

Workers are started in processes that Ray has in stock, without a runtime environment; the controller sets their
variables, and its own. Asked how it stands, a worker answers when it has something to say, or after a while: the thread
that answers sleeps until then, where it would wake up a hundred times a second beside the one that trains.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import fsspec.config
import ray
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.checkpoint.sync_actor import SynchronizationActor
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller.controller import TrainController
from ray.train.v2._internal.execution.worker_group import state, worker_group
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.train.v2._internal.execution.worker_group.poll import PollTask
from ray.train.v2._internal.util import time_monotonic
from ray.util.placement_group import placement_group

from rayllm.core.errors import RayllmError
from rayllm.pipelines.train.crew.board import Board, Said
from rayllm.pipelines.train.crew.failures import Report
from rayllm.pipelines.train.crew.sizing import Seat

#: The concurrency group of what workers and driver say, and how many of them may wait in it at once: at the barrier,
#: every worker does.
TALK = "talk"
MOST_WAITING = 100_000
#: Seconds after which a worker answers that has nothing to say.
PATIENCE_S = 2.0
_in_talk = ray.method(concurrency_group=TALK)


class LeanTrainWorker(worker_group.RayTrainWorker):
    """Answers the controller when it has something to say."""

    def run_train_fn(self, train_fn_ref: Any) -> None:
        """Start the training thread, and one that tells of its end."""
        super().run_train_fn(train_fn_ref)
        threading.Thread(target=self._tell_end, daemon=True).start()

    def poll_status(self) -> Any:
        """What there is to say, once there is something, or nothing after ``PATIENCE_S``."""
        work = get_train_context().execution_context
        reports, runner = work.result_queue, work.training_thread_runner
        with reports.not_empty:
            reports.not_empty.wait_for(lambda: reports.queue or not runner.is_running(), timeout=PATIENCE_S)
        return super().poll_status()

    def _tell_end(self) -> None:
        work = get_train_context().execution_context
        if work.training_thread_runner._thread is not None:
            work.training_thread_runner._thread.join()
        with work.result_queue.not_empty:
            work.result_queue.not_empty.notify_all()


class _Workers(worker_group.WorkerGroup):
    """Workers in processes that Ray has in stock, on places that the driver can find by their name."""

    _worker_cls = LeanTrainWorker

    def begin_polls(self) -> list[Any]:
        """Ask every worker that has not been asked yet; their answers to come."""
        polls = self._get_poll_tasks()
        for rank, poll in enumerate(polls):
            self._world_rank_to_ongoing_poll.setdefault(rank, PollTask(time_monotonic(), poll))
        return polls

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        return None

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> Any:
        context = worker_group_context
        return DefaultPlacementGroupHandle(
            placement_group(
                bundles=[context.resources_per_worker] * context.num_workers,
                strategy=context.placement_strategy,
                bundle_label_selector=context.label_selector,
                name=places_of(str(ray.get_runtime_context().get_actor_id())),
            )
        )

    def _init_train_context_on_workers(self, workers: list[Any], sync_actor: Any, train_context_args: Any) -> None:
        wanted: Any = self._train_run_context.run_config.worker_runtime_env or {}
        variables = get_env_vars_to_propagate() | wanted.get("env_vars", {})
        ray.get([worker.execute_async(set_variables, variables) for worker in workers])
        super()._init_train_context_on_workers(workers, sync_actor, train_context_args)


class LeanTrainController(TrainController):
    """Starts its workers without a runtime environment, hears them, and is their barrier.

    Args:
        variables: Of the environment: the process has none of its own.
        parts: What ``TrainController`` takes.
    """

    worker_group_cls = _Workers

    def __init__(self, variables: Mapping[str, str], **parts: Any) -> None:
        set_variables(variables)
        self._board = Board()
        self._barrier: Any = None
        # Ray Train makes an actor of this class for each group of workers, and kills it when they end.
        workers: Any = worker_group
        workers.SynchronizationActor = _BarrierInside(self._keep_barrier)
        state._shutdown_sync_actor = _keep_alive
        super().__init__(**parts)

    def _keep_barrier(self, barrier: Any) -> None:
        self._barrier = barrier

    async def _poll_workers(self) -> Any:
        """Wait for the first answer, or too long; Ray Train alone would wait where it stands."""
        workers: Any = self._worker_group
        answers = [asyncio.wrap_future(poll.future()) for poll in workers.begin_polls()]
        answered, _ = await asyncio.wait(answers, timeout=2 * PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        for answer in answered:
            answer.exception()  # is Ray Train's to tell, which asks for it again
        return await super()._poll_workers()

    @_in_talk
    async def broadcast_from_rank_zero(self, *arguments: Any, **options: Any) -> Any:
        """Wait for all workers; what rank 0 brought."""
        return await self._barrier.broadcast_from_rank_zero(*arguments, **options)

    @_in_talk
    async def set_required_ranks(self, ranks: Any) -> bool:
        """Wait for these workers only: others are being taken away."""
        return await self._barrier.set_required_ranks(ranks)

    @_in_talk
    def push(self, record: dict[str, Any]) -> None:
        """See ``Board``."""
        self._board.push(record)

    @_in_talk
    def sit(self, seat: Seat) -> None:
        """See ``Board``."""
        self._board.sit(seat)

    @_in_talk
    def finish(self, outcome: str) -> None:
        """See ``Board``."""
        self._board.finish(outcome)

    @_in_talk
    def report(self, report: Report, error: RayllmError | None) -> None:
        """See ``Board``."""
        self._board.report(report, error)

    @_in_talk
    def look(self) -> Said:
        """See ``Board``."""
        return self._board.look()


class _BarrierInside:
    """In place of the class of Ray Train's barrier: its instances live in this process, called by this actor's handle.

    Args:
        keep: Gets each barrier that is made.
    """

    def __init__(self, keep: Callable[[Any], None]) -> None:
        self._keep = keep

    def options(self, **_: Any) -> "_BarrierInside":
        """Where the actor would be placed: here."""
        return self

    def remote(self, **settings: Any) -> Any:
        """Make a barrier."""
        actor: Any = SynchronizationActor
        self._keep(actor.__ray_metadata__.modified_class(**settings))
        return ray.get_runtime_context().current_actor


def _keep_alive(_: Any) -> None:
    """The barrier's actor is the controller, which goes on."""


def set_variables(variables: Mapping[str, str]) -> None:
    """Set environment variables in a process that runs already."""
    os.environ.update(variables)
    fsspec.config.set_conf_env(fsspec.config.conf)  # read when it was imported


def places_of(actor_id: str) -> str:
    """The name of the placement group that a controller's workers have."""
    return f"rayllm-workers-{actor_id}"


def controller_of_this_worker() -> Any:
    """The actor that started this worker."""
    return get_train_context().controller_actor
