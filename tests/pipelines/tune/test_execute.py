"""How trials run on a real Ray: warm, stopped by their scheduler, crashed, interrupted; every CPU comes back."""

import gc
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
from fault_table import RECOVERY
from packing_fixture import make_packed
from small_sweep import LR, make_sweep, run_rates, seconds_until_free, slow_training

from rayllm.core.artifact import Artifact
from rayllm.core.errors import SavedForRerun
from rayllm.pipelines.tune.execute import run_trials
from rayllm.pipelines.tune.stepwise import Stepwise
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.tune.results import Ledger

STEPS = {"max_steps": 16, "validation": {"every_steps": 4, "max_tokens": 512}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def slowly(monkeypatch):
    """Replace training in the processes of trials."""
    from rayllm.pipelines.tune import execute

    def replace(**options):
        monkeypatch.setattr(execute, "train_trial", slow_training(**options))

    return replace


@pytest.mark.fault("T1", "a trial comes to a rung of ASHA", "it waits, its place is free, and every CPU at the end")
@pytest.mark.ray
def test_trials_that_fall_behind_are_stopped_at_a_rung(tmp_path, packed, ray_session, record_property):
    sweep = make_sweep(tmp_path, packed.uri, STEPS, scheduler={"kind": "asha", "first": 4, "reduction": 2})
    # Each worse than those before it: whoever comes to a rung first, the last two come after a better one.
    results = run_rates(sweep, [3e-3, 3e-5, 2e-5, 1e-5])
    record_property(RECOVERY, round(seconds_until_free(time.monotonic(), CPU=2), 2))
    status = {result.settings[LR]: result.status for result in results}
    assert status[3e-3] == "finished"
    assert "stopped" in status.values()
    for result in results:
        assert result.metrics == result.curve[-1].metrics
        assert result.curve[0].step == 0
        assert (result.curve[-1].step == 16) == (result.status == "finished")
    reused = [result for result in results if result.reused]
    assert len(reused) == 2
    assert max(result.start_s for result in reused) < min(result.start_s for result in results if not result.reused)


@pytest.mark.fault("T3", "a trial's process is killed", "it is tried once more, and its CPU is back")
@pytest.mark.ray
def test_a_trial_whose_process_dies_is_tried_once_more(tmp_path, packed, ray_session, slowly, record_property):
    marker = tmp_path / "died"
    slowly(rate_of_death=0.002, marker=str(marker))
    results = run_rates(make_sweep(tmp_path, packed.uri), [0.001, 0.002])
    assert sorted((result.settings[LR], result.status) for result in results) == [
        (0.001, "finished"),
        (0.002, "finished"),
    ]
    [again] = [result for result in results if result.settings[LR] == 0.002]
    assert [point.step for point in again.curve] == [2, 4, 6, 8, 10]
    record_property(RECOVERY, round(seconds_until_free(time.monotonic(), CPU=2), 2))


@pytest.mark.fault("T5", "Ctrl-C", "trials save and end, every CPU is back, the same command goes on")
@pytest.mark.ray
def test_an_interrupted_sweep_ends_in_seconds_and_goes_on(tmp_path, packed, ray_session, slowly, record_property):
    slowly()
    sweep = make_sweep(tmp_path, packed.uri)
    pressed: list[float] = []

    def press():
        while not Path(sweep.directory, "trials.jsonl").exists():
            time.sleep(0.05)
        time.sleep(0.5)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(SavedForRerun, match="not finished: trial-00"):
        run_rates(sweep, [0.001, 0.002, 0.003, 0.004])
    record_property(RECOVERY, round(seconds_until_free(pressed[0], CPU=2), 2))
    before = Ledger(f"{sweep.directory}/trials.jsonl").results
    assert 1 <= len(before) < 4
    results = run_rates(sweep, [0.001, 0.002, 0.003, 0.004])
    assert sorted(result.trial for result in results) == [0, 1, 2, 3]
    assert all(result in results for result in before)  # as they were; two that ended together may change places


@pytest.mark.fault("T5", "Ctrl-C", "trials save and end, every CPU is back, the same command goes on")
@pytest.mark.ray
def test_an_interrupted_sweep_goes_on_with_the_trials_that_waited(
    tmp_path, packed, ray_session, record_property, capfd
):
    sweep = make_sweep(tmp_path, packed.uri, STEPS, scheduler={"kind": "asha", "first": 4, "reduction": 4})
    pressed: list[float] = []

    def press():
        while len(list(Path(sweep.directory).glob("trials/*/metrics.jsonl"))) < 4:  # so two wait at their rung
            time.sleep(0.05)
        pressed.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    rates = [3e-3, 3e-5, 2e-5, 1e-5]
    with pytest.raises(SavedForRerun, match="not finished: trial-00"):
        run_rates(sweep, rates)
    record_property(RECOVERY, round(seconds_until_free(pressed[0], CPU=2), 2))
    assert Ledger(f"{sweep.directory}/trials.jsonl").results == []
    results = run_rates(sweep, rates)
    assert sorted(result.trial for result in results) == [0, 1, 2, 3]
    status = {result.settings[LR]: result.status for result in results}
    assert status[3e-3] == "finished"
    assert {result.curve[-1].step for result in results if result.status == "stopped"} == {4}
    assert "Last result" not in capfd.readouterr().out  # what Tune would say of those that did not begin again


class AfterAStep:
    """Proposes learning rates, each when the one before it has come to a step."""

    def __init__(self, rates: list[float], sweep: Sweep, step: int) -> None:
        self._left, self._step = rates[::-1], f'"step": {step},'
        self._trials = Path(sweep.directory) / "trials"
        self._proposed = 0

    @property
    def done(self):
        return not self._left

    def ask(self):
        come = sum(self._step in path.read_text() for path in self._trials.glob("*/metrics.jsonl"))
        if self.done or come < self._proposed:
            return None
        self._proposed += 1
        return {LR: self._left.pop()}

    def tell(self, result):
        pass


@pytest.mark.ray
def test_a_trial_that_waited_at_its_rungs_learns_what_it_learns_in_one_go(tmp_path, packed, ray_session):
    asha = {"kind": "asha", "first": 4, "reduction": 2}
    whole = STEPS | {"workers": {"cpus": int(ray.cluster_resources()["CPU"])}}  # one at a time: the first one waits
    sweep = make_sweep(tmp_path / "halved", packed.uri, whole, scheduler=asha)
    halved = run_trials(AfterAStep([3e-3, 1e-5], sweep, step=4), sweep, Ledger(f"{sweep.directory}/trials.jsonl"))
    [waited] = [result for result in halved if result.settings[LR] == 3e-3]
    assert waited.restarts_s > 0
    [straight] = run_rates(make_sweep(tmp_path / "straight", packed.uri, whole), [3e-3])
    assert waited.curve[-1] == straight.curve[-1]


class InRounds:
    """Proposes two trials, and two more when both have ended."""

    def __init__(self):
        self._left, self._ended = [4e-3, 3e-3, 2e-3, 1e-3], 0

    @property
    def done(self):
        return not self._left

    def ask(self):
        waits = len(self._left) == 2 and self._ended < 2
        return None if waits or self.done else {LR: self._left.pop()}

    def tell(self, result):
        self._ended += 1


@pytest.mark.ray
def test_a_sampler_that_waits_for_results_finds_a_process_warm(tmp_path, packed, ray_session, slowly):
    slowly()
    gc.unfreeze()
    sweep = make_sweep(tmp_path, packed.uri)
    results = run_trials(InRounds(), sweep, Ledger(f"{sweep.directory}/trials.jsonl"))
    assert gc.get_freeze_count() > 100_000, "no start has to wait until what is imported has been looked through"
    assert [result.status for result in results] == ["finished"] * 4
    assert any(result.reused for result in results[2:])  # Tune ends a process that waits while another one works


@pytest.mark.fault("T8", "others hold a CPU that a trial needs", "it is named; the trial begins when it is free")
@pytest.mark.ray
def test_what_a_trial_waits_for_is_named(tmp_path, packed, ray_session, slowly, monkeypatch):
    from ray.util import placement_group, remove_placement_group

    from rayllm.pipelines.tune import watch

    slowly()
    monkeypatch.setattr(watch, "WAITING_NOTICE_S", 1.0)
    held = placement_group([{"CPU": 1}])
    assert held.wait(60)
    told: list[str] = []

    def tell(message: str, *values: object) -> None:
        told.append(message % values)
        remove_placement_group(held)
        monkeypatch.setattr(watch, "WAITING_NOTICE_S", 30.0)  # Ray may need another second to give what is free

    monkeypatch.setattr(watch.logger, "warning", tell)
    [result] = run_rates(make_sweep(tmp_path, packed.uri, cpus_per_trial=2), [0.001])
    assert told == ["no trial can start: it wants 2 CPU (1 of 2 free)"]
    assert result.status == "finished"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("budget", [{"hours": 60 / 3600}, {"device_hours": 60 / 3600}], ids=["hours", "device_hours"])
def test_budgets_of_time_are_kept(tmp_path, packed, ray_session, slowly, budget):
    slowly()
    run_rates(make_sweep(tmp_path / "warm", packed.uri, budget={"trials": 2}), [0.001, 0.002])
    sweep = make_sweep(tmp_path, packed.uri, budget=budget)
    begun = time.monotonic()
    results = run_rates(sweep, [0.001 * number for number in range(1, 100)])
    took_s = time.monotonic() - begun
    assert len(results) < 99
    assert {result.status for result in results[:-2]} == {"finished"}
    assert all(result.cut for result in results[-2:] if result.status != "finished")  # unless both were just done
    if "hours" in budget:
        assert took_s == pytest.approx(60, rel=0.05)  # the start and the end of Ray Tune are in it
    else:
        assert sum(result.device_s for result in results) == pytest.approx(60, rel=0.05)


def test_no_trial_tokenises_or_copies_data(tmp_path, packed, monkeypatch):
    from rayllm.pipelines.train.session import Job
    from rayllm.pipelines.tune.capacity import Needs
    from rayllm.pipelines.tune.nested import train_trial
    from rayllm.tokenizer.codec import Codec

    def refuse(*_: object) -> None:
        raise AssertionError("a trial has tokenised")

    for name in ("encode", "encode_batch", "encode_to_buffer"):
        monkeypatch.setattr(Codec, name, refuse)
    before = {file: file.stat().st_mtime_ns for file in Path(packed.uri).rglob("*") if "index" not in file.parts}
    sweep = make_sweep(tmp_path, packed.uri, {"max_steps": 2, "validation": {"every_steps": 2, "max_tokens": 512}})
    run = sweep.plan(0, {"mixture.weights": {"code": 0.25, "math": 0.75}})
    job = Job(run.config, packed.uri, run.directory)
    course = Stepwise(lambda gate: train_trial(job, Needs(1, 0, 1), gate, lambda: False))
    reached = [course.advance(), course.advance()]
    assert (reached[-1].ended, reached[-1].error) == ("finished", "")
    assert {file: file.stat().st_mtime_ns for file in before} == before
    written = [file.name for file in Path(run.directory).rglob("*") if file.suffix in (".tokens", ".bounds")]
    assert not written
