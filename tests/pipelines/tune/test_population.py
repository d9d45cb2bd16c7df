"""Population-based training: who fell behind goes on from a good trial's checkpoint, with changed settings."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fault_table import RECOVERY
from packing_fixture import make_packed
from small_sweep import LR, make_sweep, run_rates, seconds_until_free

from rayllm.core.errors import SavedForRerun
from rayllm.pipelines.tune.population import Exploring
from rayllm.pipelines.tune.progress import Order
from rayllm.pipelines.tune.standing import read_standing
from rayllm.report.metrics_log import read_metrics

TRAIN = {"max_steps": 12, "validation": {"every_steps": 4, "max_tokens": 512}}


@pytest.mark.parametrize(("rate", "taken"), [(0.02, 0.02), (-1.0, 0.01)], ids=["valid", "not valid"])
def test_settings_are_changed_by_the_sweep_and_only_to_what_makes_a_valid_run(tmp_path, rate, taken):
    sweep = replace(make_sweep(tmp_path, "packed", TRAIN), explore=lambda settings, number: {LR: rate})
    good = sweep.plan(0, {LR: 0.01})
    changed = Exploring(sweep, lambda training: training)({"order": Order(good.config, {LR: 0.01}, 0.0)})["order"]
    assert changed.settings == {LR: taken}
    assert changed.config.train.optimizer.lr == taken


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault("T2", "a population stops its worst trial", "it goes on from the best one's checkpoint")
def test_the_worst_trial_goes_on_from_the_best(tmp_path, ray_session, record_property):
    packed = make_packed(tmp_path / "packed")
    scheduler = {"kind": "pbt", "every": 4, "quantile": 0.25}
    sweep = make_sweep(tmp_path, packed.uri, TRAIN, scheduler=scheduler)
    sweep = replace(sweep, explore=lambda settings, number: {LR: float(settings[LR]) * 1.25})
    results = run_rates(sweep, [3e-3, 1e-9, 2e-9, 3e-9])  # more than run at a time
    record_property(RECOVERY, round(seconds_until_free(time.monotonic(), CPU=2), 2))
    assert {result.status for result in results} == {"finished"}
    assert {result.curve[-1].step for result in results} == {12}
    taken = [result for result in results if result.parent]
    assert taken
    assert all(result.settings[LR] > 3e-3 for result in taken)  # changed from the good trial's
    assert all([point.step for point in result.curve] == [0, 4, 8, 12] for result in results)
    assert not [file for file in (tmp_path / "sweep").rglob("*.safetensors")]  # of no use to anybody now
    left = [result.metrics["mean_bits_per_byte"] for result in results if not result.parent]
    assert max(result.metrics["mean_bits_per_byte"] for result in taken) < max(left)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.fault("T9", "Ctrl-C in a population", "every trial goes on as what it had become")
def test_an_interrupted_population_goes_on_as_what_it_was(tmp_path, ray_session, record_property):
    packed = make_packed(tmp_path / "packed")
    training = {"max_steps": 40, "validation": {"every_steps": 4, "max_tokens": 512}}
    scheduler = {"kind": "pbt", "every": 8, "quantile": 0.25}
    sweep = make_sweep(tmp_path, packed.uri, training, scheduler=scheduler)
    sweep = replace(sweep, explore=lambda settings, number: {LR: float(settings[LR]) * 1.25})
    rates = [3e-3, 1e-9, 2e-9, 3e-9]

    pressed: list[float] = []

    def press() -> None:
        while not read_standing(sweep.directory).changes:
            time.sleep(0.05)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(SavedForRerun):
        run_rates(sweep, rates)
    record_property(RECOVERY, round(seconds_until_free(pressed[0], CPU=2), 2))
    stands = read_standing(sweep.directory).trials
    moved = {name: stand for name, stand in stands.items() if stand.directory}
    assert moved
    results = {f"trial-{result.trial:03d}-{result.key[:8]}": result for result in run_rates(sweep, rates)}
    assert {result.status for result in results.values()} == {"finished"}
    for name, stand in stands.items():
        log = read_metrics(f"{stand.directory or Path(sweep.trials, name)}/metrics.jsonl")
        assert log.train[0]["step"] > 1 or not stand.directory
        assert [point.step for point in results[name].curve] == list(range(0, 41, 4))
        assert results[name].curve[: len(stand.curve)] == stand.curve  # nothing was trained again
    for name in moved:
        assert results[name].parent
