"""Sweeps without training: every setting has a true value, every seed adds noise."""

from collections.abc import Mapping, Sequence

import numpy as np

from rayllm.tune.replicates import confirmations
from rayllm.tune.results import Point, TrialResult, group_of
from rayllm.tune.significance import judge
from rayllm.tune.significance_config import SignificanceConfig
from rayllm.tune.space import Settings
from rayllm.tune.verdict import Verdict

OBJECTIVE = "mean_bits_per_byte"


def trial(number: int, settings: Settings, value: float, tokens: int = 1000, **fields) -> TrialResult:
    """A finished trial with this objective, and a curve that falls to it."""
    metrics = {OBJECTIVE: value, "bits_per_byte/english": value - 0.1, "bits_per_byte/code": value + 0.1}
    curve = [
        Point(step=step, tokens=tokens * step // 10, metrics={name: v + 1 / step - 0.1 for name, v in metrics.items()})
        for step in (1, 2, 5, 10)
    ]
    seed = settings.get("seed", 1234)
    assert isinstance(seed, int)
    names = {"trial": number, "key": f"k{number}", "settings": settings, "group": group_of(settings), "seed": seed}
    outcome = {"status": "finished", "metrics": metrics, "curve": curve, "wall_s": 12.0, "tokens": tokens}
    return TrialResult.model_validate(names | outcome | fields)


def objective(result: TrialResult) -> float:
    """What simulated sweeps are judged by."""
    return result.metrics[OBJECTIVE]


def sweep(
    true: Sequence[float], noise: float, seed: int, config: SignificanceConfig, replicates: int = 1
) -> tuple[list[TrialResult], Verdict, Mapping[str, str]]:
    """A whole sweep: screening, confirmations, verdict. The first true value is the baseline's."""
    rng = np.random.default_rng(seed)
    of_group = {group_of({"lr": index}): value for index, value in enumerate(true)}
    baseline: Settings = {"lr": 0}
    baselines = {group_of(baseline): "run file"}
    tried: list[Settings] = [{"lr": index} for index in range(len(true))]
    if replicates > 1:
        tried = [{**one, "seed": number} for one in tried for number in range(replicates)]
    results: list[TrialResult] = []
    while tried:
        for one in tried:
            results.append(trial(len(results), one, of_group[group_of(one)] + noise * rng.standard_normal()))
        tried = confirmations(results, objective, config, [baseline], seed)
    return results, judge(results, objective, config, baselines, seed), baselines
