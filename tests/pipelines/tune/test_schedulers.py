"""What decides which trials go on: Ray Tune's schedulers, on the steps and values that a sweep gives them."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
from made_results import result
from ray.train._internal.storage import StorageContext
from ray.tune import Trainable
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import TrialScheduler

from rayllm.pipelines.tune.preparing import Course
from rayllm.pipelines.tune.progress import Order
from rayllm.pipelines.tune.schedulers import Around, Judged, build_scheduler
from rayllm.pipelines.tune.search import Search
from rayllm.pipelines.tune.stepwise import Reached
from rayllm.tune.results import Point
from rayllm.tune.schedulers import AshaScheduler, MedianScheduler, PbtScheduler


def around(places=2, over=lambda: False):
    return Around(lambda config: config, places if callable(places) else lambda: places, over)


def curve(**values):
    return [Point(step=int(step[1:]), tokens=1, metrics={"m": value}) for step, value in values.items()]


class Sweep:
    """A sweep under halving as Tune runs it: trials that are asked to pause do so when they have saved."""

    def __init__(self, steps=90, begun=0, earlier=None, kind=None, **settings):
        self.trials, self.ended = [], []
        inner = build_scheduler(kind or AshaScheduler(reduction=3), Course(begun + steps, begun), around(**settings))
        self.judged = Judged(inner, lambda metrics, _: metrics["m"], begun, earlier=earlier)

    def get_trials(self):
        return self.trials

    def get_live_trials(self):
        return [trial for trial in self.trials if trial.status != Trial.TERMINATED]

    def stop_trial(self, trial):
        self.judged.on_trial_remove(self, trial)
        trial.status = Trial.TERMINATED
        self.ended.append(trial.trial_id)

    def join(self, name):
        trial = Member(name)
        trial.status = Trial.PENDING
        self.judged.on_trial_add(self, trial)
        self.trials.append(trial)
        return trial

    def come(self, trial, step, value):
        trial.status = Trial.RUNNING
        return self.judged.on_trial_result(self, trial, report(step, value))

    def wait_at(self, step, **values):
        for name, value in values.items():
            trial = self.join(name)
            assert self.come(trial, step, value) == TrialScheduler.PAUSE
            trial.status = Trial.PAUSED

    def next(self):
        return self.judged.choose_trial_to_run(self)


@pytest.mark.parametrize("begun", [0, 600])
def test_trials_wait_at_rungs_after_the_step_where_all_begin(begun):
    sweep = Sweep(begun=begun)
    for name, value in {"a": 3.0, "b": 2.0}.items():
        trial = sweep.join(name)
        assert sweep.next() is trial
        decided = [sweep.come(trial, begun + step, value) for step in (0, 9, 10)]
        assert decided == [TrialScheduler.CONTINUE] * 2 + [TrialScheduler.PAUSE]
        trial.status = Trial.PAUSED
    assert sweep.judged.waits
    best = sweep.join("c")
    assert [sweep.come(best, begun + step, 1.0) for step in (0, 10, 30)] == [TrialScheduler.CONTINUE] * 2 + ["PAUSE"]


def test_a_place_goes_to_the_best_of_a_rung_then_to_a_new_trial():
    sweep = Sweep(places=2)
    sweep.wait_at(10, a=3.0, b=2.0)
    assert sweep.judged.admits(99, 0)
    last = sweep.join("c")
    assert sweep.come(last, 10, 4.0) == TrialScheduler.PAUSE
    assert not sweep.judged.admits(0, 99)  # b goes first
    assert sweep.next() is sweep.trials[1]  # though the last one still saves
    last.status = Trial.PAUSED
    assert sweep.judged.admits(99, 0)
    sweep.join("d")
    assert not sweep.judged.admits(0, 99)


def test_at_the_end_one_trial_comes_to_its_end_and_the_others_end_where_they_wait():
    sweep = Sweep(places=1)
    sweep.wait_at(10, a=3.0, b=2.0)
    trial = sweep.next()
    assert trial.trial_id == "b"  # nothing else is to come
    assert [sweep.come(trial, step, 1.0) for step in (10, 30)] == [TrialScheduler.CONTINUE, TrialScheduler.PAUSE]
    trial.status = Trial.PAUSED
    assert sweep.next() is trial
    assert sweep.come(trial, 30, 1.0) == TrialScheduler.CONTINUE
    trial.status = Trial.TERMINATED
    done = {"progress": SimpleNamespace(reached=Reached(point=curve(s90=0.5)[0], ended="finished"))}
    sweep.judged.on_trial_complete(sweep, trial, done)
    assert sweep.next() is None
    assert (sweep.ended, sweep.judged.waits) == (["a"], False)


def test_when_the_last_trial_fails_the_best_that_waits_goes_on():
    sweep = Sweep(places=1)
    sweep.wait_at(10, a=3.0, b=2.0)
    trial = sweep.next()
    trial.status = Trial.TERMINATED
    failed = {"progress": SimpleNamespace(reached=Reached(ended="failed", error="it broke"))}
    sweep.judged.on_trial_complete(sweep, trial, failed)
    assert sweep.next() is sweep.trials[0]


def test_when_the_budget_is_spent_nobody_goes_on():
    over = []
    sweep = Sweep(places=1, over=lambda: bool(over))
    sweep.wait_at(10, a=3.0, b=2.0)
    last = sweep.join("c")
    over.append(1)
    assert sweep.come(last, 10, 9.0) == TrialScheduler.CONTINUE  # it was asked to save and end, and so goes on one day
    last.status = Trial.TERMINATED
    sweep.judged.on_trial_complete(sweep, last, {})
    assert sweep.next() is None
    assert sweep.ended == ["a", "b"]


def test_the_seconds_of_a_trial_that_goes_on_run_from_then():
    sweep = Sweep(places=1)
    sweep.wait_at(10, a=3.0, b=2.0)
    sweep.trials[1].config = {"order": Order("config", {}, asked_s=1.0)}
    begun = time.time()
    assert sweep.next().config["order"].asked_s >= begun


def test_who_goes_on_after_a_restart_depends_on_those_that_have_not_joined_yet():
    names = {"worst": 9.0, "worse": 8.0, "bad": 7.0}
    earlier = {name: curve(s0=9.9, s10=value) for name, value in names.items()}
    earlier |= {f"good {number}": curve(s0=9.9, s10=1.0 + number, s20=1.0) for number in range(3)}
    sweep = Sweep(earlier=earlier)
    for name in names:
        assert sweep.join(name).status == Trial.PAUSED
    assert sweep.judged.admits(0, 0)  # no best of these three: the good ones join
    joined = sweep.join("good 0")
    assert joined.status == Trial.PENDING
    assert sweep.next() is joined


def test_who_still_saves_keeps_its_place_and_holds_up_no_other():
    places = [1]
    sweep = Sweep(places=lambda: places[0])
    sweep.wait_at(10, a=1.0, b=2.0)
    saving = sweep.join("saving")
    assert sweep.come(saving, 10, 3.0) == TrialScheduler.PAUSE  # and RUNNING, until it has saved
    assert sweep.next() is None
    places = [2]
    assert sweep.next().trial_id == "a"


def test_a_trial_that_failed_is_compared_with_nobody():
    sweep = Sweep(places=1)
    sweep.wait_at(10, a=1.0, b=2.0, c=3.0)
    failed = sweep.join("failed")
    sweep.judged.on_trial_complete(sweep, failed, {"progress": SimpleNamespace(reached=Reached(ended="failed"))})
    lost = sweep.join("lost")
    assert sweep.come(lost, 10, 9.0) == TrialScheduler.PAUSE
    sweep.judged.on_trial_error(sweep, lost)
    lost.status = Trial.ERROR
    assert not sweep.judged._inner._halving._arrived[10].keys() & {"failed", "lost"}


def test_a_search_that_is_told_to_end_has_ended_though_trials_wait():
    sweep = Sweep()
    sweep.wait_at(10, a=3.0)
    search = Search(None, lambda: 2, lambda config: config, sweep.judged)
    search._finished = True
    assert not search.is_finished()
    search.set_finished()
    assert search.is_finished()


class Proposal:
    """A book with one trial to begin."""

    exhausted = False
    live: ClassVar[dict[str, object]] = {}

    def next_run(self):
        return SimpleNamespace(id="abc", trial=SimpleNamespace(name="trial-000"))

    def order(self, run):
        return Order(SimpleNamespace(train=None, model_copy=lambda update: "config"), {}, asked_s=0.0)


def test_a_trial_that_never_begins_can_be_asked_for_its_place(tmp_path, monkeypatch):
    """Tune asks every trial for it when a sweep ends; one that waited at its rung since an earlier start has none."""
    monkeypatch.setattr(StorageContext, "_get_session_path", lambda self: str(tmp_path))
    search = Search(Proposal(), lambda: 2, lambda train: train, Sweep().judged)
    search.add_configurations(Experiment("trials", Trainable, storage_path=str(tmp_path)))
    trial = search.next_trial()
    assert Path(trial.path).parent == tmp_path / "trials"


def test_trials_of_an_earlier_start_are_compared_with_and_go_on_from_where_they_stood():
    earlier = {"waited": curve(s0=9.0, s10=2.0), "was running": curve(s0=9.0, s10=1.0, s20=0.9)}
    sweep = Sweep(earlier=earlier)
    sweep.judged.recall([result(0, status="stopped", curve=curve(s10=5.0)), result(1, status="failed", curve=[])])
    sweep.judged.recall([result(2, status="stopped", cut=True, curve=curve(s10=0.1))])  # it goes on
    waited, running = sweep.join("waited"), sweep.join("was running")
    assert (waited.status, running.status) == (Trial.PAUSED, Trial.PENDING)
    assert sweep.come(running, 20, 0.9) == TrialScheduler.CONTINUE
    assert sweep.next() is None  # one of three has passed
    sweep.wait_at(10, c=6.0, d=7.0)
    assert sweep.judged.admits(0, 99)
    sweep.wait_at(10, e=8.0)
    assert sweep.next() is waited


def test_a_trial_that_goes_on_is_not_stopped_for_what_it_had_shown_before():
    kind = MedianScheduler(first=10, least_trials=2)
    inner = build_scheduler(kind, Course(40), around())
    judged = Judged(inner, lambda metrics, _: metrics["m"], earlier={"late": curve(s10=9.0, s20=9.0)})
    judged.recall([result(number, curve=curve(s10=1.0, s20=1.0, s30=1.0)) for number in range(3)])
    trial = Member("late")
    judged.on_trial_add(None, trial)
    assert judged.on_trial_result(None, trial, report(30, 0.5)) == TrialScheduler.CONTINUE
    judged.recall([result(number, curve=curve(s10=8.0, s20=8.0, s30=8.0)) for number in range(3, 9)])
    assert len(inner._results) == 10


class Member:
    """A trial of a population, as far as its scheduler looks at it."""

    def __init__(self, name):
        self.trial_id = self.experiment_tag = name
        self.status, self.config, self.checkpoint = Trial.RUNNING, {}, None
        self.temporary_state = SimpleNamespace(saving_to=None)
        kept = SimpleNamespace(checkpoint_config=SimpleNamespace(num_to_keep=None))
        self.run_metadata = SimpleNamespace(checkpoint_manager=kept)

    def set_status(self, status):
        self.status = status

    def set_config(self, config):
        self.config = config

    def is_finished(self):
        return self.status in (Trial.TERMINATED, Trial.ERROR)


def population(size, every):
    """A population's scheduler, its trials, and what runs them."""
    trials = [Member(f"t{number}") for number in range(size)]
    living = lambda: {trial for trial in trials if not trial.is_finished()}  # noqa: E731
    controller = SimpleNamespace(search_alg=None, get_trials=lambda: trials, get_live_trials=living)
    controller._schedule_trial_save = lambda trial, result: None
    inner = build_scheduler(PbtScheduler(every=every), Course(5 * every), around())
    judged = Judged(inner, lambda metrics, _: metrics["m"])
    for trial in trials:
        judged.on_trial_add(controller, trial)
    return judged, trials, controller


def report(step, value=1.0):
    return {
        "progress": SimpleNamespace(reached=SimpleNamespace(point=Point(step=step, tokens=step, metrics={"m": value})))
    }


def pause_at(judged, controller, trials, step):
    for trial in trials:
        trial.status = Trial.RUNNING
    for trial in trials:
        assert judged.on_trial_result(controller, trial, report(step)) == TrialScheduler.PAUSE
        trial.status = Trial.PAUSED


@pytest.mark.parametrize("meetings", [0, 2])
def test_a_population_does_not_wait_for_a_trial_that_has_ended(meetings):
    judged, trials, controller = population(3, every=4)
    for meeting in range(1, meetings + 1):
        pause_at(judged, controller, trials, 4 * meeting)
    for trial in trials:
        trial.status = Trial.RUNNING
    step = 4 * (meetings + 1)
    pause_at(judged, controller, trials[:2], step)
    assert judged.choose_trial_to_run(controller) is None  # the third is still on its way
    trials[2].status = Trial.ERROR
    judged.on_trial_error(controller, trials[2])
    assert judged.choose_trial_to_run(controller) in trials[:2]
    assert judged.on_trial_result(controller, trials[0], report(step + 2)) == TrialScheduler.CONTINUE
    pause_at(judged, controller, trials[:2], step + 4)


def test_a_trial_that_is_tried_once_more_meets_its_population_where_there_are_checkpoints():
    judged, trials, controller = population(2, every=10)
    for step in (10, 20):
        pause_at(judged, controller, trials, step)
    trials[0].status = Trial.RUNNING
    judged.on_trial_add(controller, trials[0])
    assert judged.on_trial_result(controller, trials[0], report(24)) == TrialScheduler.CONTINUE
    assert judged.on_trial_result(controller, trials[0], report(30)) == TrialScheduler.PAUSE
