"""The driver's side of training: size the workers, start Ray Train, show progress, turn endings into exit codes."""

import contextlib
import math
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from rayllm.core import storage
from rayllm.core.checkpoint import DIRECTORY, list_checkpoints
from rayllm.core.errors import RayllmError, RunFailed, SavedForRerun
from rayllm.core.log import get_logger
from rayllm.core.stage import Work
from rayllm.pipelines import ray_runtime
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.session import STOP_FILE, Job, read_attempt
from rayllm.pipelines.train.worker import Board, arrow_filesystem, train_worker
from rayllm.train.config import WorkersConfig
from rayllm.train.console import Display, open_display
from rayllm.train.guards.watchdog import describe_stalls

logger = get_logger(__name__)

POLL_S = 0.5
#: Ray Train's own record of checkpoints; ours is the checkpoints themselves, and a torn one blocks every restart.
SNAPSHOT = "checkpoint_manager_snapshot.json"
FORWARDED = ("RAYLLM_", "WANDB_", "AWS_", "GOOGLE_", "HF_", "FSSPEC_")
STORAGE_MARKER = ".validate_storage_marker"


@dataclass(frozen=True)
class Crew:
    """The workers of a run: how many, and the resources of each."""

    count: int
    cpus: float
    gpus: int

    @property
    def threads(self) -> int:
        """Threads that torch may use in each worker."""
        return max(1, int(self.cpus))


def size_crew(config: WorkersConfig, resources: dict[str, float]) -> Crew:
    """Choose the workers: one per GPU, else two that share the CPUs."""
    cpus, gpus = resources.get("CPU", 1.0), int(resources.get("GPU", 0))
    count = config.count or gpus or min(2, max(1, int(cpus)))
    share = config.cpus or max(1, math.floor(cpus / max(count, 1)))
    return Crew(count, share, 1 if gpus else 0)


def run_with_ray(work: Work) -> dict[str, Any]:
    """Train with Ray Train.

    Raises:
        RunFailed: With the cause first.
        SavedForRerun: If the run was asked to stop and has saved.
        SetupError: If the cluster is too small.
    """
    config: Config = work.config
    ray_runtime.ensure_ray(config.ray)
    crew = size_crew(config.train.workers, ray_runtime.cluster_resources())
    ray_runtime.require(
        {"CPU": crew.count * crew.cpus} | ({"GPU": crew.count} if crew.gpus else {}),
        what=f"training with {crew.count} workers",
        fix="set train.workers.count or train.workers.cpus lower, or add nodes",
    )
    job = Job(config, storage.absolute(work.inputs["pack"].uri), storage.absolute(work.directory))
    storage.make_dirs(job.checkpoints)
    _remove_leftovers(job)
    board = Board.remote()
    display = open_display()
    try:
        with _stop_signals(job):
            outcome = _fit_and_show(job, crew, board, display)
    finally:
        display.close()
    if outcome == "stopped":
        raise SavedForRerun(
            "training was stopped and has saved a checkpoint",
            where=job.checkpoints,
            fix="run the same command again; it goes on from there",
        )
    _remove_leftovers(job)
    return _counts(job, crew)


def _remove_leftovers(job: Job) -> None:
    """Remove what is no part of the artifact: an old wish to stop, and Ray's own records."""
    for name in (STOP_FILE, f"{DIRECTORY}/{SNAPSHOT}", f"{DIRECTORY}/{STORAGE_MARKER}"):
        storage.remove(storage.join(job.directory, name))


def _fit_and_show(job: Job, crew: Crew, board: Any, display: Display) -> str:
    """Fit in a thread, so that Ray leaves our signal handlers alone, and show the board's records meanwhile."""
    error: RayllmError | None = None
    outcome = ""
    with ThreadPoolExecutor(1, thread_name_prefix="fit") as pool:
        fitting = pool.submit(_fit, job, crew, board)
        while True:
            ended = bool(wait([fitting], timeout=POLL_S).done)
            records, outcome, error = ray.get(board.take.remote())
            for record in records:
                display.show(record)
            if ended:
                break
    failure = fitting.exception()
    if error is not None:
        raise error from failure
    if isinstance(failure, ray.train.TrainingFailedError):
        raise explain(failure, job) from failure
    if failure is not None:
        raise failure
    return outcome


def _fit(job: Job, crew: Crew, board: Any) -> None:
    config = job.config
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "board": board, "threads": crew.threads},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if crew.gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=crew.count,
            use_gpu=bool(crew.gpus),
            resources_per_worker={"CPU": crew.cpus} | ({"GPU": 1} if crew.gpus else {}),
        ),
        run_config=ray.train.RunConfig(
            name=DIRECTORY,
            worker_runtime_env={"env_vars": _forwarded_environment()},
            failure_config=ray.train.FailureConfig(max_failures=config.train.workers.max_failures),
            **_storage_options(job.directory),
        ),
    )
    trainer.fit()


def _forwarded_environment() -> dict[str, str]:
    """Variables that workers on other nodes must have too: our own, and the secrets of services a run logs to."""
    return {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}


def _storage_options(directory: str) -> dict[str, Any]:
    if storage.is_local(directory):
        return {"storage_path": str(storage.local_path(directory))}
    fs, path = arrow_filesystem(directory)
    return {"storage_path": path, "storage_filesystem": fs}


def explain(error: Exception, job: Job) -> RayllmError:
    """A failed fit as one message: the first failed rank, its message, its place, where the full trace is."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    if not failures:
        cause = str(error).strip().splitlines()
        return RunFailed("training failed", why=cause[-1] if cause else type(error).__name__)
    rank, cause = min(failures.items())
    inner = getattr(cause, "cause", None) or cause
    if isinstance(inner, RayllmError):
        return inner
    if stalls := describe_stalls(job.directory, read_attempt(job.directory)):
        return RunFailed(
            f"training stood still for {job.config.train.guards.stall_timeout_s:g} s, and restarts did not help",
            where=job.directory,
            why="; ".join(stalls),
            fix="look at the stacks; if steps or validations only take long, raise train.guards.stall_timeout_s",
        )
    text = "".join(traceback.format_exception(type(inner), inner, inner.__traceback__))
    frames = [line.strip() for line in text.splitlines() if line.strip().startswith("File ") and "rayllm" in line]
    trace = storage.join(job.directory, "failure.txt")
    storage.write_text(trace, text + "\n" + str(cause))
    message = str(inner).strip().splitlines()
    return RunFailed(
        f"training failed on rank {rank}: {type(inner).__name__}",
        where=frames[-1] if frames else f"rank {rank}",
        why=message[-1] if message else "the worker died",
        fix=f"the full trace is in {trace}; run again to go on from the last checkpoint",
    )


def _counts(job: Job, crew: Crew) -> dict[str, Any]:
    last = list_checkpoints(job.checkpoints)[-1]
    return {
        "steps": last.step,
        "attempts": last.attempt,
        "workers": crew.count,
        "last_checkpoint": last.uri.rpartition("/")[2],
    }


@contextlib.contextmanager
def _stop_signals(job: Job) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the workers to save and stop; the second ends the run at once."""
    asked = False

    def handle(number: int, _: object) -> None:
        nonlocal asked
        if asked:
            os._exit(128 + number)
        asked = True
        storage.write_text(storage.join(job.directory, STOP_FILE), "stop\n")
        logger.info("stopping after this step and saving; once more to stop at once")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
