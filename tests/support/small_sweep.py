"""A small sweep of learning rates, for tests of how trials run."""

import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import ray
from small_session import make_config

from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.tune.execute import run_trials
from rayllm.pipelines.tune.progress import TrainTrial
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.tune.config import TuneConfig
from rayllm.tune.results import Ledger, TrialResult
from rayllm.tune.samplers.sampler import ListSampler

LR = "train.optimizer.lr"
OBJECTIVE = "mean_bits_per_byte"
#: Seconds within which everything must be given back; on two quiet cores it takes one.
SOON_S = 10


def make_sweep(root: Path, packed_uri: str, train: dict[str, Any] | None = None, **settings: Any) -> Sweep:
    """A sweep over learning rates of the small run."""
    quiet = {"checkpoint": {"every_steps": 1000}, "samples": {"every_steps": 0, "max_new_tokens": 1}}
    config = make_config(root, **(quiet | (train or {})))
    space = {LR: {"kind": "uniform", "low": 0.0001, "high": 0.1}}
    tune = TuneConfig.model_validate({"space": space, "budget": {"trials": 100}} | settings)
    directory = root / "sweep"
    directory.mkdir(parents=True, exist_ok=True)
    return Sweep(config, tune, packed_uri, RayConfig(), str(directory), value_of)


def value_of(metrics: Any, tokens: int) -> float:
    """The objective."""
    return metrics.get(OBJECTIVE, math.nan)


def run_rates(sweep: Sweep, rates: list[float]) -> list[TrialResult]:
    """Train with each of these learning rates."""
    ledger = Ledger(f"{sweep.directory}/trials.jsonl")
    return run_trials(ListSampler([{LR: rate} for rate in rates]), sweep, ledger)


def seconds_until_free(since: float, **resources: float) -> float:
    """Seconds from a moment until Ray has given back everything, which must not take long.

    Args:
        since: Of ``time.monotonic``.
        **resources: What must be free.
    """
    while any(ray.available_resources().get(name, 0.0) < amount for name, amount in resources.items()):
        assert time.monotonic() - since < SOON_S, f"still held: {ray.available_resources()} of {resources}"
        time.sleep(0.05)
    seconds = time.monotonic() - since
    assert seconds < SOON_S
    return seconds


def slow_training(rate_of_death: float | None = None, marker: str = "") -> TrainTrial:
    """A training of ten steps, a fifth of a second each; with one of the rates it dies once, at its fourth step."""

    def train(job: Any, needs: Any, gate: Any, asked: Any) -> bool:
        rate = job.config.train.optimizer.lr
        gate.begin()
        for step in range(1, 11):
            if asked():
                return False
            time.sleep(0.2)
            if rate == rate_of_death and step == 4 and not os.path.exists(marker):
                Path(marker).write_text(str(time.time()))
                os.kill(os.getpid(), signal.SIGKILL)
            gate.write({"kind": "train", "step": step, "total_steps": 10})
            if step % 2 == 0:
                fields = {"attempt": 1, "time": 0.0, "mean_bits_per_byte": rate}
                gate.write({"kind": "validation", "step": step, "tokens": 10 * step, **fields})
        return True

    return train
