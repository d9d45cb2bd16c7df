"""What a sweep costs beside its training: ASHA against the full grid, idle CPUs, the start and the overhead of a trial.

The quickstart's data and model, ``--trials`` mixtures of its domains (uniform first, the rest drawn). Every mixture is
trained to the end (the grid), then the same ones under ASHA. Told are the winners of both with the difference of their
objective, the share of the grid's tokens that ASHA read, the share of the time in which CPUs trained and in which they
were not idle (training or starting), and what a trial costs until its first step in a process that is warm.
``--rounds`` times, a few short trials of one sweep and the same trainings alone in this process take turns; the ratio
of their median seconds, and the difference, are a trial's overhead. At the default sizes all of it takes a quarter of
an hour on two CPU cores.

Aims: the same winner within the noise of ``--seeds`` seeds, at most 30 % of the tokens, CPUs busy at least 90 % of the
time, at most 0.3 s to the first step.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from support.peers import REPO, describe_machine
from support.results import Table

from rayllm.pipelines import train
from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.ray_runtime import ensure_ray
from rayllm.pipelines.run_config import load_run, stage_config
from rayllm.pipelines.runner import run_stages, verbs_for
from rayllm.pipelines.train.session import train_alone
from rayllm.pipelines.tune.execute import run_trials
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.tune.config import TuneConfig
from rayllm.tune.results import Ledger, TrialResult
from rayllm.tune.samplers.sampler import ListSampler
from rayllm.tune.space import Settings

CONFIG = REPO / "configs" / "run" / "quickstart.yaml"
OBJECTIVE = "mean_bits_per_byte"
AIM_TOKENS, AIM_BUSY, AIM_START_S = 0.30, 0.90, 0.3


@dataclass(frozen=True)
class Measured:
    """One sweep.

    Attributes:
        results: Of its trials.
        wall_s: Seconds from its call to its return, the start of its processes included.
        used: Share of this machine's CPU time in which they were not idle, whoever used them.
    """

    results: list[TrialResult]
    wall_s: float
    used: float

    @property
    def best(self) -> TrialResult:
        """The finished trial with the lowest objective."""
        finished = [one for one in self.results if one.status == "finished"]
        return min(finished, key=lambda one: one.metrics[OBJECTIVE])

    @property
    def tokens(self) -> int:
        """Read by all trials together."""
        return sum(one.tokens for one in self.results)

    @property
    def starts_s(self) -> list[float]:
        """To the first step ever, of the trials in processes that were warm."""
        return [one.start_s for one in self.results if one.reused]

    def busy(self, cpus: int) -> float:
        """Share of the CPUs' time in which they trained: neither idle nor starting anything."""
        return sum(one.wall_s - one.starts_s for one in self.results) / (self.wall_s * cpus)


def mixtures(domains: Sequence[str], count: int) -> list[Settings]:
    """Equal weights, then draws from the simplex."""
    drawn = np.random.default_rng(0).dirichlet([1.5] * len(domains), count - 1)
    points = [[1 / len(domains)] * len(domains), *drawn.tolist()]
    return [{"mixture.weights": dict(zip(domains, map(float, point), strict=True))} for point in points]


def measure(sweep: Sweep, settings: Sequence[Settings]) -> Measured:
    """Run a sweep over some settings."""
    begun, before = time.perf_counter(), psutil.cpu_times()
    results = run_trials(ListSampler(settings), sweep, Ledger(f"{sweep.directory}/trials.jsonl"))
    spent = [after - earlier for after, earlier in zip(psutil.cpu_times(), before, strict=True)]
    idle = spent[before._fields.index("idle")] + spent[before._fields.index("iowait")]
    return Measured(results, time.perf_counter() - begun, 1 - idle / sum(spent))


def alone_s(sweep: Sweep, settings: Sequence[Settings], directory: Path) -> list[float]:
    """Seconds of the same trainings one after the other in this process, the first of which only warms it."""
    seconds = []
    for number, one in enumerate([settings[0], *settings]):
        run = sweep.plan(number, one)
        begun = time.perf_counter()
        train_alone(run.config, sweep.packed_uri, str(directory / str(number)))
        seconds.append(time.perf_counter() - begun)
    return seconds[1:]


def overhead(sweep: Sweep, settings: Sequence[Settings], root: Path, rounds: int) -> Table:
    """A trial's seconds beside those of the same training alone, round by round, and the median of the ratios.

    Each round is a sweep of one trial at a time, then the same trainings alone; trials in cold processes do not count.
    """
    rows, ratios = [], []
    single = replace(
        sweep, settings=sweep.settings.model_copy(update={"cpus_per_trial": ray.cluster_resources()["CPU"]})
    )
    for number in range(rounds):
        results = measure(replace(single, directory=made(root / f"overhead-{number}")), settings).results
        inside = statistics.median(one.wall_s for one in results if one.reused)
        alone = statistics.median(alone_s(single, settings, root / f"alone-{number}"))
        ratios.append(inside / alone)
        rows.append([str(number + 1), f"{inside:.2f} s", f"{alone:.2f} s", f"{inside - alone:+.2f} s"])
        rows[-1].append(f"{ratios[-1]:.3f}")
    title = (
        f"Overhead: a trial in a warm process takes {statistics.median(ratios):.3f} times the same training alone "
        f"({single.config.train.max_steps} steps)"
    )
    return Table(title, ("round", "trial", "alone", "difference", "ratio"), rows)


def made(directory: Path) -> str:
    """The directory, which now exists."""
    directory.mkdir(parents=True)
    return str(directory)


def noise(sweep: Sweep, best: TrialResult, seeds: int, root: Path) -> float:
    """Standard deviation of the objective over seeds, at the winner's settings."""
    settings = [{**best.settings, "seed": 9000 + number} for number in range(seeds)]
    found = measure(replace(sweep, directory=made(root / "noise")), settings)
    return statistics.stdev(one.metrics[OBJECTIVE] for one in found.results)


def compare(sweep: Sweep, settings: Sequence[Settings], root: Path, seeds: int, cpus: int) -> Table:
    """The grid, ASHA over the same settings, and how far their winners are apart."""
    asha = sweep.settings.model_validate(sweep.settings.model_dump() | {"scheduler": {"kind": "asha"}})
    grid = measure(replace(sweep, directory=made(root / "grid")), settings)
    halved = measure(replace(sweep, settings=asha, directory=made(root / "asha")), settings)
    values = {one.trial: one.metrics[OBJECTIVE] for one in grid.results}
    lead = values[halved.best.trial] - values[grid.best.trial]
    deviation = noise(sweep, grid.best, seeds, root)
    rows = [
        _row("grid", grid, cpus, 1.0),
        _row("ASHA", halved, cpus, halved.tokens / grid.tokens),
    ]
    title = (
        f"{len(settings)} mixtures. The winners are {lead:.4f} {OBJECTIVE} apart in the grid; two standard deviations "
        f"of {seeds} seeds are {2 * deviation:.4f}. Aims: {AIM_TOKENS:.0%} of the tokens, busy {AIM_BUSY:.0%}, "
        f"start {AIM_START_S} s"
    )
    return Table(
        title,
        ("sweep", "winner", OBJECTIVE, "tokens", "of the grid's", "minutes", "training", "not idle", "warm start"),
        rows,
    )


def _row(name: str, found: Measured, cpus: int, share: float) -> list[str]:
    starts = found.starts_s
    start = f"{statistics.median(starts):.2f} s (to {max(starts):.2f})" if starts else "-"
    best = found.best
    values = [f"trial {best.trial}", f"{best.metrics[OBJECTIVE]:.4f}", f"{found.tokens:,}", f"{share:.0%}"]
    return [name, *values, f"{found.wall_s / 60:.1f}", f"{found.busy(cpus):.0%}", f"{found.used:.0%}", start]


def shortened(sweep: Sweep, steps: int) -> Sweep:
    """The same sweep with shorter trials."""
    training = sweep.config.train.model_copy(update={"max_steps": steps})
    return replace(sweep, config=sweep.config.model_copy(update={"train": training}))


def make_sweep(root: Path, steps: int) -> tuple[Sweep, list[str]]:
    """The quickstart's data, made here where they are not there yet, and the sweep over them; and their domains."""
    changes = ["train.tokens=null", "curriculum=[]", f"train.max_steps={steps}", "train.samples.every_steps=0"]
    never = 10 * steps  # but at the rungs, and at the end
    changes += [f"train.validation.every_steps={never}", f"train.checkpoint.every_steps={never}"]
    changes += ["train.validation.max_tokens=8Ki"]
    run = load_run(str(CONFIG), [*changes, f"storage={root}"])
    packed = run_stages(run, verbs_for("pack"))["pack"]
    ensure_ray(RayConfig())  # which the stages start only where there is something to make
    settings: dict[str, Any] = {"space": {"mixture.weights": {"kind": "simplex"}}, "budget": {"trials": 10_000}}
    config = stage_config("train", run)
    assert isinstance(config, train.Config)
    tune = TuneConfig.model_validate(settings)
    sweep = Sweep(config, tune, packed.uri, RayConfig(), "", lambda metrics, _: metrics.get(OBJECTIVE, float("nan")))
    return sweep, list(run.sources)


def main() -> None:
    """Measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=120, help="of a whole trial")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="of the overhead")
    parser.add_argument("--overhead-steps", type=int, default=40, help="of the trials of these rounds")
    parser.add_argument("--storage", type=Path, default=None, help="holds the data; by default made anew")
    args = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="sweep-"))
    sweep, domains = make_sweep(args.storage or root, args.steps)
    settings = mixtures(domains, args.trials)
    cpus = int(ray.cluster_resources()["CPU"])
    print(describe_machine())
    print(compare(sweep, settings, root, args.seeds, cpus).markdown())
    print(overhead(shortened(sweep, args.overhead_steps), settings[:3], root, args.rounds).markdown())


if __name__ == "__main__":
    main()
