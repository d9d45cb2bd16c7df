"""Sweeps as their page reads them, made without training."""

import numpy as np
from simulated_sweep import OBJECTIVE, objective, trial

from rayllm.report.sweep.records import Surface, SweepRecords
from rayllm.tune.replicates import confirmations
from rayllm.tune.results import Point, TrialResult, group_of
from rayllm.tune.significance import judge
from rayllm.tune.significance_config import SignificanceConfig
from rayllm.tune.space import Settings

DOMAINS = ("english", "math", "code")
WIDTH = "model.num_layers"


def bits(settings: Settings, noise: float) -> dict[str, float]:
    """Bits per byte of each domain: a domain with more weight is better, and so is a middling learning rate."""
    weights = settings.get("mixture.weights", dict.fromkeys(DOMAINS, 1 / 3))
    rate = settings.get("train.optimizer.lr", 0.001)
    assert isinstance(weights, dict)
    assert isinstance(rate, float)
    off = 0.04 * (np.log10(rate) + 2.6) ** 2
    return {
        name: 1.5 + 0.25 * place + gain * np.exp(-4 * float(weights[name])) + off + noise
        for place, (name, gain) in enumerate(zip(DOMAINS, (0.2, 1.2, 0.5), strict=True))
    }


def trained(number: int, settings: Settings, rng: np.random.Generator, stop_at: int | None = None) -> TrialResult:
    """A trial of 20 validations, or stopped after some of them."""
    last = bits(settings, 0.004 * rng.standard_normal())
    curve = []
    for step in range(1, (stop_at or 20) + 1):
        above = 1.2 * (step**-0.6 - 20**-0.6) + 0.003 * rng.standard_normal() * (step < 20)
        by_domain = {f"bits_per_byte/{name}": value + above for name, value in last.items()}
        metrics = by_domain | {OBJECTIVE: sum(by_domain.values()) / len(by_domain)}
        curve.append(Point(step=25 * step, tokens=204_800 * step, metrics=metrics))
    return trial(
        number,
        settings,
        0.0,
        curve=curve,
        metrics=curve[-1].metrics,
        tokens=curve[-1].tokens,
        status="stopped" if stop_at else "finished",
        wall_s=2.1 * len(curve) + rng.random(),
        start_s=0.1 + 0.1 * rng.random(),
        reused=number > 1,
    )


def mixture_sweep(trials: int = 16, seed: int = 3, config: SignificanceConfig | None = None) -> SweepRecords:
    """A mixture sweep with a learning rate and a choice, half of it stopped early, one trial failed."""
    rng = np.random.default_rng(seed)
    config = config or SignificanceConfig()
    uniform: Settings = {"mixture.weights": dict.fromkeys(DOMAINS, 1 / 3)}
    baselines = {group_of(uniform): "uniform"}
    results = [trained(0, uniform, rng)]
    for number in range(1, trials):
        weights = dict(zip(DOMAINS, map(float, rng.dirichlet([1.5] * len(DOMAINS)).round(3)), strict=True))
        settings: Settings = {
            "mixture.weights": weights,
            "train.optimizer.lr": float(f"{10 ** rng.uniform(-4, -1.5):.3g}"),
            "train.optimizer.kind": ["muon", "adamw"][number % 2],
            WIDTH: int(rng.integers(2, 7)),
        }
        results.append(trained(number, settings, rng, stop_at=[None, 5, 10][number % 3]))
    results.append(
        trial(trials, {"train.optimizer.lr": 0.9}, 0.0, status="failed", metrics={}, curve=[], error="diverged")
    )
    while wanted := confirmations(results, objective, config, [uniform], seed):
        results += [trained(len(results) + place, one, rng) for place, one in enumerate(wanted)]
    return records_of(results, baselines, config, seed)


def records_of(results, baselines, config, seed) -> SweepRecords:
    """The records of some trials, in order of merit."""
    places = {"finished": 0, "stopped": 1, "failed": 2}
    ranked = sorted(results, key=lambda one: (places[one.status], one.metrics.get(OBJECTIVE, 99.0)))
    return SweepRecords(
        name="quickstart-mixture",
        objective=OBJECTIVE,
        score=lambda metrics, tokens: metrics.get(OBJECTIVE),
        results=ranked,
        verdict=judge(results, objective, config, baselines, seed),
        baselines=baselines,
        best_uri="runs/quickstart-mixture/tune-0123/best.yaml",
        created="2026-01-02T03:04:05Z",
    )


def law_surface() -> Surface:
    """What a law might predict."""
    grid = [(a / 20, b / 20) for a in range(21) for b in range(21 - a)]
    mixtures = [dict(zip(DOMAINS, (a, b, 1 - a - b), strict=True)) for a, b in grid]
    points = [(mixture, sum(bits({"mixture.weights": mixture}, 0.0).values()) / 3) for mixture in mixtures]
    return Surface(tuple(points), {"english": 0.13, "math": 0.56, "code": 0.31})
