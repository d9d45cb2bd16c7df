"""What each worker of Ray Train runs: one rank of a session, its results handed to Ray."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import CheckpointConsistencyMode, CheckpointUploadMode

from rayllm.core import storage
from rayllm.core.errors import RayllmError
from rayllm.core.log import BesideSink, MetricSink, SinkGroup, get_logger
from rayllm.pipelines.train.crew.arrow_files import arrow_filesystem
from rayllm.pipelines.train.crew.board import BoardSink
from rayllm.pipelines.train.crew.failures import report_of
from rayllm.pipelines.train.crew.lean_controller import controller_of_this_worker
from rayllm.pipelines.train.crew.sizing import Seat
from rayllm.pipelines.train.gauges import GaugeSink
from rayllm.pipelines.train.job import STOP_FILE, Job
from rayllm.pipelines.train.preemption import PreemptionNotice
from rayllm.pipelines.train.session import Outlets, run_session
from rayllm.pipelines.train.turnstile import Turnstile

logger = get_logger(__name__)

#: Seconds between looks at the stop file.
STOP_POLL_S = 1.0
#: Seconds that a rank keeps to itself that others are gone.
HEARSAY_S = 3.0
#: Seconds in which Ray Train's controller should have taken note of a checkpoint.
NOTED_S = 60.0


class Witness:
    """Tells the board of the exception that ends this rank, and lets it pass.

    Who only heard that another rank is gone waits a moment first, so that Ray can tell of the one that died.
    """

    def __init__(self, board: Any, rank: int) -> None:
        self._board, self._rank = board, rank

    def __enter__(self) -> None:
        """Nothing to tell yet."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        report = report_of(self._rank, error)
        ray.get(self._board.report.remote(report, error if isinstance(error, RayllmError) else None))
        if report.hearsay:
            time.sleep(HEARSAY_S)


class StopFile:
    """Whether the run was asked to save and stop: a file beside its artifacts, looked for in the background."""

    def __init__(self, uri: str) -> None:
        self._uri, self._found = uri, False
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def __call__(self) -> bool:
        """The answer of the last look."""
        return self._found

    def _watch(self) -> None:
        while not self._found:
            try:
                self._found = storage.exists(self._uri)
            except (OSError, RayllmError) as error:  # a store that fails for a moment must not end the watch
                logger.warning("could not look for %s, will look again: %s", self._uri, error)
            time.sleep(STOP_POLL_S)


def train_worker(payload: dict[str, Any]) -> None:
    """Train as one rank.

    Args:
        payload: ``job``, and the ``threads`` of a worker.
    """
    job: Job = payload["job"]
    board = controller_of_this_worker()
    rank = ray.train.get_context().get_world_rank()
    board.sit.remote(_seat(rank))
    torch.set_num_threads(payload["threads"])
    os.environ["OMP_NUM_THREADS"] = str(payload["threads"])
    leads = rank == 0
    sinks: list[MetricSink] = []
    stop: Callable[[], bool] = _never
    if leads:
        stop = turnstile = Turnstile(job.directory, job.judged_at, StopFile(storage.join(job.directory, STOP_FILE)))
        sinks = [BesideSink(SinkGroup([BoardSink(board), GaugeSink(job.config.name)])), turnstile]
    outlets = Outlets(
        sink=SinkGroup(sinks),
        announce=lambda name: _announce(storage.join(job.checkpoints, name), name, leads=leads),
        stop_requested=stop,
        notice=PreemptionNotice(),
    )
    with Witness(board, rank):
        device = _device()
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        finished, _ = run_session(job, outlets, job.config.train.engine, device)
        dist.destroy_process_group()
    if leads:
        ray.get(board.finish.remote("done" if finished else "stopped"))


def _seat(rank: int) -> Seat:
    context = ray.get_runtime_context()
    return Seat(rank, context.get_node_id(), ray.util.get_node_ip_address(), os.getpid())


def _device() -> torch.device:
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _never() -> bool:
    return False


def _announce(uri: str, name: str, *, leads: bool) -> None:
    """Tell Ray Train of a checkpoint that lies in the run's storage, and see that its controller has taken note.

    Every call is a barrier of all workers, and takes as long as the controller's next look at them.
    """
    ray.train.report(
        {"checkpoint": name},
        checkpoint=_reference(uri),
        checkpoint_dir_name=name,
        checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
    )
    if leads:
        reported = ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.COMMITTED, timeout_s=NOTED_S)
        if not any(entry.checkpoint.path.rstrip("/").endswith(name) for entry in reported):
            logger.warning(
                "Ray Train has not taken note of %s in %.0f s; runs go on from it all the same", uri, NOTED_S
            )


def _reference(uri: str) -> ray.train.Checkpoint:
    if storage.is_local(uri):
        return ray.train.Checkpoint(str(storage.local_path(uri)))
    fs, path = arrow_filesystem(uri)
    return ray.train.Checkpoint(path, filesystem=fs)
