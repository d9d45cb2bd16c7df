"""Trials on Ray Tune: one worker each, training in the trainable itself, results into the ledger as they come.

Tune only schedules: which settings are tried is decided before, and what has finished is in our own ledger. Trials do
not start Ray Train inside Tune: nested placement groups can be lost when a trial stops, and the next one waits on.
"""

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray import cloudpickle, tune
from ray.exceptions import RayTaskError
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial

from rayllm.core import storage
from rayllm.core.artifact import Artifact
from rayllm.core.checkpoint import DIRECTORY
from rayllm.core.errors import ConfigError, RayllmError, SavedForRerun, SetupError
from rayllm.core.log import get_logger
from rayllm.pipelines import ray_runtime
from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.train import run_single
from rayllm.pipelines.tune import TrialRun
from rayllm.tune.config import TuneConfig
from rayllm.tune.results import Ledger, TrialResult, finite

#: Tune's own loggers and traces are not wanted: results are in the ledger, causes in the console, traces in a file.
ENVIRONMENT = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "TUNE_PRINT_ALL_TRIAL_ERRORS": "0"}
WAITING_NOTICE_S = 30.0

logger = get_logger(__name__)


def run_trials(
    runs: Sequence[TrialRun],
    packed: Artifact,
    settings: TuneConfig,
    ray_config: RayConfig,
    ledger: Ledger,
    scratch: str,
) -> None:
    """Train trials, as many at a time as fit; each result is in the ledger as soon as it is known.

    Args:
        runs: The trials.
        packed: Token shards.
        settings: Resources and budget.
        ray_config: Where Ray runs.
        ledger: Takes the results.
        scratch: A directory for Tune's own files, removed at the end.

    Raises:
        ConfigError: If the sweep asks for what cannot be done here.
        SetupError: If no node can hold a trial.
        SavedForRerun: If the sweep was interrupted; finished trials are in the ledger.
    """
    _check_supported(settings)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    ray_runtime.ensure_ray(ray_config)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it would say, the bookkeeper says
    work = {run.trial.index: (run.config, run.directory) for run in runs}

    def train_trial(sampled: dict[str, int]) -> None:
        config, directory = work[sampled["trial"]]
        tune.report({"metrics": run_single(config, packed, directory)})

    keeper = _Bookkeeper(runs, ledger, settings)
    tuner = tune.Tuner(
        tune.with_resources(train_trial, _resources(settings)),
        param_space={"trial": tune.grid_search(list(work))},
        tune_config=tune.TuneConfig(reuse_actors=True),
        run_config=tune.RunConfig(name="trials", storage_path=scratch, verbose=0, callbacks=[keeper]),
    )
    try:
        tuner.fit()
    finally:
        storage.remove(scratch)
    if keeper.open:
        names = ", ".join(run.trial.name for run in keeper.open.values())
        raise SavedForRerun(
            "the sweep was interrupted", why=f"not finished: {names}", fix="run the same command again to go on"
        )


def _check_supported(settings: TuneConfig) -> None:
    budget = settings.budget
    refused = {
        "tune.scheduler": settings.scheduler.kind != "none",
        "tune.workers": settings.workers > 1,
        "tune.budget": budget.trials is None or budget.hours is not None or budget.device_hours is not None,
    }
    for where, unsupported in refused.items():
        if unsupported:
            raise ConfigError("sweeps cannot do this yet", where=where, fix="leave it out, or give trials only")


def _resources(settings: TuneConfig) -> dict[str, float]:
    """What a trial asks for; refused when no node has as much, since Tune would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most = {kind: max(node.get(kind, 0.0) for node in nodes) for kind in ("CPU", "GPU")}
    gpus = settings.gpus_per_trial
    wanted = {"CPU": settings.cpus_per_trial, "GPU": float(most["GPU"] > 0) if gpus is None else gpus}
    if not any(all(node.get(kind, 0.0) >= amount for kind, amount in wanted.items()) for node in nodes):
        raise SetupError(
            "no node can hold a trial of the sweep",
            why=f"a trial wants {wanted}; the largest node has {most}",
            fix="lower tune.cpus_per_trial or tune.gpus_per_trial",
        )
    return {kind.lower(): amount for kind, amount in wanted.items()}


class _Bookkeeper(Callback):
    """Writes each result down the moment Tune knows it, and says so when nothing can run."""

    def __init__(self, runs: Sequence[TrialRun], ledger: Ledger, settings: TuneConfig) -> None:
        self.open = {run.trial.index: run for run in runs}
        self._total, self._ledger, self._settings = len(runs), ledger, settings
        self._started: dict[int, float] = {}
        self._last_life = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: object) -> None:
        """Note the time."""
        self._started[trial.config["trial"]] = time.monotonic()

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: object) -> None:
        """Write down the metrics; a trial whose objective is no number has failed."""
        run = self.open.pop(trial.config["trial"])
        metrics, objective = finite(trial.last_result["metrics"]), self._settings.objective
        if objective in metrics:
            self._write(run, metrics, "")
        else:
            self._write(run, {}, f"its last validation gave no finite {objective}")
        if not self._settings.keep_checkpoints:
            storage.remove(storage.join(run.directory, DIRECTORY))

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **_: object) -> None:
        """Write down the cause, and the whole trace beside the trial's metrics."""
        run = self.open.pop(trial.config["trial"])
        error = _error_of(trial)
        storage.write_text(storage.join(run.directory, "error.txt"), str(error))
        self._write(run, {}, _cause(error))

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **_: object) -> None:
        """Tune waits for resources without a word: say what it waits for."""
        now = time.monotonic()
        if any(trial.status == TuneTrial.RUNNING for trial in trials):
            self._last_life = now
        elif self.open and now - self._last_life > WAITING_NOTICE_S:
            self._last_life = now
            logger.warning(
                "no trial can start: each wants %s, free now are %s",
                _resources(self._settings),
                {kind: ray.available_resources().get(kind, 0.0) for kind in ("CPU", "GPU")},
            )

    def _write(self, run: TrialRun, metrics: dict[str, float], error: str) -> None:
        wall_s = round(time.monotonic() - self._started[run.trial.index], 3)
        self._ledger.append(
            TrialResult(
                trial=run.trial.index,
                key=run.key,
                settings=run.trial.settings,
                group=run.group,
                seed=run.config.seed,
                metrics=metrics,
                status="failed" if error else "finished",
                wall_s=wall_s,
                cpus=self._settings.cpus_per_trial,
                error=error,
            )
        )
        objective = self._settings.objective
        outcome = f"failed: {error.splitlines()[0]}" if error else f"{objective} {metrics[objective]:.4f}"
        done = self._total - len(self.open)
        logger.info("%s: %s (%.0f s; %d of %d)", run.trial.name, outcome, wall_s, done, self._total)


def _error_of(trial: TuneTrial) -> BaseException:
    """The error of a trial, from the file that Tune wrote in this process a moment ago; it offers no other way."""
    path = trial.pickled_error_file
    assert path, "Tune keeps the error of every failed trial"
    return cloudpickle.loads(Path(path).read_bytes())


def _cause(error: BaseException) -> str:
    """What a trial died of, in its own words: Ray's wrapping is left out."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return str(cause) if isinstance(cause, RayllmError) else f"{type(cause).__name__}: {cause}"
