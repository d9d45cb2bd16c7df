import numpy as np
from simulated_sweep import trial
from sweep_records import records_of

from rayllm.report.sweep.importance import importances
from rayllm.tune.significance_config import SignificanceConfig


def found(trials, value):
    rng = np.random.default_rng(0)
    results = []
    for number in range(trials):
        settings = {"lr": float(rng.random()), "width": int(rng.integers(1, 9)), "kind": "ab"[int(rng.integers(2))]}
        results.append(trial(number, settings, value(settings) + 0.01 * rng.standard_normal()))
    return importances(records_of(results, {}, SignificanceConfig(leaders=0), seed=0))


def test_the_setting_that_makes_the_difference_comes_first():
    result = found(40, lambda settings: 2.0 - settings["lr"])
    assert result is not None
    first = result.settings[0]
    assert first.axis.path == "lr"
    assert first.share > 0.9
    assert first.correlation is not None
    assert first.correlation < -0.9
    assert result.explained > 0.8
    assert abs(sum(one.share for one in result.settings) - 1) < 1e-9


def test_a_setting_that_falls_and_rises_again_has_a_share_though_no_correlation():
    result = found(60, lambda settings: (settings["lr"] - 0.5) ** 2 * 8)
    assert result is not None
    lr = next(one for one in result.settings if one.axis.path == "lr")
    assert lr.share > 0.8
    assert lr.correlation is not None
    assert abs(lr.correlation) < 0.4


def test_noise_is_told_by_what_the_forest_explains():
    result = found(40, lambda settings: 2.0)
    assert result is not None
    assert result.explained < 0.5  # where the page says that the shares say little


def test_a_few_trials_tell_nothing():
    assert found(7, lambda settings: 2.0 - settings["lr"]) is None
