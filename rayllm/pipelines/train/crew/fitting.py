"""One start of the workers with Ray Train: a fixed number of them, no restarts of Ray's own.

Why not Ray's: its elastic policy looks at the nodes every twenty seconds and so waits a minute for one that is gone;
and when a node comes it ends the workers wherever they are. The driver restarts them itself, knows why, and lets them
save first.
"""

import dataclasses
import os
import threading
from typing import Any

import ray
import ray.exceptions
import ray.train
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from rayllm.core import storage
from rayllm.core.checkpoint import DIRECTORY
from rayllm.pipelines.train.crew.arrow_files import arrow_filesystem
from rayllm.pipelines.train.crew.board import Said
from rayllm.pipelines.train.crew.failures import Ending
from rayllm.pipelines.train.crew.lean_trainer import LeanTrainer, Rendezvous
from rayllm.pipelines.train.crew.sizing import Crew
from rayllm.pipelines.train.job import Job

#: Variables that workers on other nodes must have too: our own, and the secrets of services a run logs to. Those that
#: name a node's own network devices, such as GLOO_SOCKET_IFNAME, are set on each node.
FORWARDED = ("RAYLLM_", "WANDB_", "AWS_", "GOOGLE_", "HF_", "FSSPEC_")
#: Ray Train's own record of checkpoints; ours is the checkpoints themselves, and a torn one blocks every restart.
SNAPSHOT = "checkpoint_manager_snapshot.json"
STORAGE_MARKER = ".validate_storage_marker"
#: Seconds without an answer of the controller after which the cluster counts as lost: fewer than the sixty after which
#: Ray ends this process, without a word of ours.
SILENCE_S = 30.0


class Fitting(threading.Thread):
    """Fits in a thread, so that Ray leaves our signal handlers alone and a lost cluster cannot hold the driver."""

    def __init__(self, job: Job, crew: Crew) -> None:
        super().__init__(name="fit", daemon=True)
        self._job, self._crew = job, crew
        self._trainer: LeanTrainer | None = None
        self._said: Said | None = None
        self._failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Fit; the thread's own main function."""
        try:
            self._trainer = _trainer(self._job, self._crew)
            self._trainer.fit()
        except BaseException as error:  # noqa: BLE001 - handed to the driver's thread, which raises or explains it
            self._failure = error

    def look(self) -> Said:
        """What the workers have said, as far as is known; records only those since the last look.

        Raises:
            GetTimeoutError: If nobody answers any more.
        """
        before = self._said or Said()
        if self._trainer is None or self._trainer.controller is None:
            return before
        try:
            self._said = ray.get(self._trainer.controller.look.remote(), timeout=SILENCE_S)
        except ray.exceptions.RayActorError:  # it is gone, with what was said since the last look
            self._said = dataclasses.replace(before, records=())
        except ray.exceptions.GetTimeoutError:
            if self._said is not None:
                raise
        return self._said or before

    def release(self) -> None:
        """End the controller and give back what was set aside for its workers, once the thread is through."""
        if self._trainer is not None:
            self._trainer.release()

    def ending(self, said: Said) -> Ending:
        """How it ended, once the thread is through.

        Args:
            said: All that the workers have said.

        Raises:
            BaseException: What is no failure of training but a bug.
        """
        failure = self._failure
        if failure is not None and not isinstance(failure, ray.train.TrainingFailedError | ray.exceptions.RayError):
            raise failure
        deaths = {
            rank: f"{type(found).__name__}: {found}"
            for rank, error in getattr(failure, "worker_failures", {}).items()
            if isinstance(found := getattr(error, "health_check_failure", error), ray.exceptions.RayError)
        }
        return Ending(
            outcome="" if failure else said.outcome,
            error=said.error,
            seats=said.seats,
            reports=said.reports,
            deaths=deaths,
            no_room=isinstance(getattr(failure, "controller_failure", None), WorkerGroupStartupTimeoutError),
            other=f"{type(failure).__name__}: {failure}" if failure else "",
        )


def _trainer(job: Job, crew: Crew) -> LeanTrainer:
    return LeanTrainer(
        _work,
        train_loop_config={"job": job, "threads": crew.threads},
        backend_config=Rendezvous(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=crew.count, use_gpu=bool(crew.gpus), resources_per_worker=crew.resources
        ),
        run_config=ray.train.RunConfig(
            name=DIRECTORY,
            worker_runtime_env={"env_vars": _forwarded_environment()},
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            **_storage_options(job.directory),
        ),
    )


def _work(payload: dict[str, Any]) -> None:
    """What every worker runs; imported there, since it needs torch and the driver does not."""
    from rayllm.pipelines.train.worker import train_worker

    train_worker(payload)


def _forwarded_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(FORWARDED)}


def _storage_options(directory: str) -> dict[str, Any]:
    if storage.is_local(directory):
        return {"storage_path": str(storage.local_path(directory))}
    fs, path = arrow_filesystem(directory)
    return {"storage_path": path, "storage_filesystem": fs}


def remove_records(directory: str) -> None:
    """Remove Ray Train's own records from a run's directory; they are no part of the artifact."""
    for name in (SNAPSHOT, STORAGE_MARKER):
        storage.remove(storage.join(directory, DIRECTORY, name))
