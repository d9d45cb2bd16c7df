"""What each worker of Ray Train runs: one rank of a session, its results handed to Ray."""

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from rayllm.core import storage
from rayllm.core.checkpoint import publish_directory
from rayllm.core.errors import RayllmError
from rayllm.core.log import SinkGroup, Value, get_logger
from rayllm.pipelines.train.gauges import GaugeSink
from rayllm.pipelines.train.session import STOP_FILE, Job, Outlets, run_session

logger = get_logger(__name__)

#: Seconds between looks at the stop file.
STOP_POLL_S = 1.0


@ray.remote(num_cpus=0)
class Board:
    """Carries what workers have to say to the driver: records, the outcome, and the error that ends the run."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._outcome = ""
        self._error: RayllmError | None = None

    def push(self, record: dict[str, Any]) -> None:
        """Add a record for the console."""
        self._records.append(record)

    def finish(self, outcome: str) -> None:
        """Note how the run ended: ``done`` or ``stopped``."""
        self._outcome = outcome

    def fail(self, error: RayllmError) -> None:
        """Note an error that a restart cannot mend."""
        self._error = self._error or error

    def failed(self) -> bool:
        """Whether such an error was noted."""
        return self._error is not None

    def take(self) -> tuple[list[dict[str, Any]], str, RayllmError | None]:
        """Records since the last call, the outcome so far, and the error."""
        records, self._records = self._records, []
        return records, self._outcome, self._error


class BoardSink:
    """Sends records to the board without waiting."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def write(self, record: Mapping[str, Value]) -> None:
        """Send one record."""
        self._board.push.remote(dict(record))

    def close(self) -> None:
        """Nothing is pending."""


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
        payload: ``job``, ``board``, and the ``threads`` of a worker.
    """
    job: Job = payload["job"]
    board = payload["board"]
    if ray.get(board.failed.remote()):
        return
    torch.set_num_threads(payload["threads"])
    os.environ["OMP_NUM_THREADS"] = str(payload["threads"])
    leads = ray.train.get_context().get_world_rank() == 0
    outlets = Outlets(
        publish=lambda staging, name: _publish(job, staging, name),
        sink=SinkGroup([BoardSink(board), GaugeSink(job.config.name)] if leads else []),
        stop_requested=StopFile(storage.join(job.directory, STOP_FILE)) if leads else _never,
    )
    try:
        finished, _ = run_session(job, outlets, job.config.train.engine, _device())
    except RayllmError as error:
        ray.get(board.fail.remote(error))
        raise
    if leads:
        ray.get(board.finish.remote("done" if finished else "stopped"))


def _device() -> torch.device:
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _never() -> bool:
    return False


def _publish(job: Job, staging: Path, name: str) -> None:
    """Hand a rank's files to Ray Train, which calls our own move to the run's storage and records the checkpoint."""
    target = storage.join(job.checkpoints, name)

    def move(_: ray.train.Checkpoint, __: str) -> ray.train.Checkpoint:
        publish_directory(staging, target)
        return _reference(target)

    ray.train.report(
        {"checkpoint": name},
        checkpoint=ray.train.Checkpoint.from_directory(str(staging)),
        checkpoint_dir_name=name,
        checkpoint_upload_fn=move,
        delete_local_checkpoint_after_upload=False,
    )


def _reference(uri: str) -> ray.train.Checkpoint:
    if storage.is_local(uri):
        return ray.train.Checkpoint(str(storage.local_path(uri)))
    fs, path = arrow_filesystem(uri)
    return ray.train.Checkpoint(path, filesystem=fs)


def arrow_filesystem(uri: str) -> tuple[Any, str]:
    """The file system behind a remote URI as pyarrow wants it."""
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    fs, path = storage.filesystem(uri)
    return PyFileSystem(FSSpecHandler(fs)), path
