"""What decides which trials go on: Ray Tune's schedulers, on the steps and values that a sweep gives them."""

from types import SimpleNamespace

import pytest
from made_results import result
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from rayllm.pipelines.tune.preparing import Course
from rayllm.pipelines.tune.schedulers import Judged, build_scheduler
from rayllm.tune.results import Point
from rayllm.tune.schedulers import AshaScheduler, MedianScheduler, PbtScheduler


@pytest.mark.parametrize("begun", [0, 600])
def test_trials_are_stopped_at_rungs_after_the_step_where_all_begin(begun):
    asha, course = AshaScheduler(), Course(begun + 400, begun)
    judged = Judged(build_scheduler(asha, course, lambda config: config), lambda metrics, _: metrics["m"], begun)
    decided = {}
    for name, value in {"good": 1.0, "bad": 2.0}.items():
        judged.on_trial_add(None, SimpleNamespace(trial_id=name))
        for step in (begun, begun + 44, begun + 45):
            reached = SimpleNamespace(point=Point(step=step, tokens=step, metrics={"m": value}))
            result = {"progress": SimpleNamespace(reached=reached)}
            decided[name, step - begun] = judged.on_trial_result(None, SimpleNamespace(trial_id=name), result)
    assert decided.pop(("bad", 45)) == TrialScheduler.STOP
    assert set(decided.values()) == {TrialScheduler.CONTINUE}


def rung(judged, number):
    """What the scheduler compares at a rung, lowest first."""
    return sorted(-value for value in judged._inner._brackets[0]._rungs[-1 - number][1].values())


def asha(steps=150, **settings):
    kind, course = AshaScheduler(), Course(steps)
    inner, rungs = build_scheduler(kind, course, lambda config: config), kind.rungs(steps)
    return Judged(inner, lambda metrics, _: metrics["m"], rungs=rungs, **settings)


def curve(**values):
    return [Point(step=int(step[1:]), tokens=1, metrics={"m": value}) for step, value in values.items()]


def test_rungs_hold_values_of_their_own_step_only():
    judged = asha(earlier={"interrupted": curve(s17=3.0, s50=2.5)})
    judged.recall(
        [result(0, status="stopped", curve=curve(s17=5.0)), result(1, curve=curve(s20=4.5, s51=4.0, s150=1.0))]
    )
    judged.recall([result(2, status="stopped", cut=True, curve=curve(s17=3.0))])  # it goes on
    trial = SimpleNamespace(trial_id="interrupted")
    judged.on_trial_add(None, trial)
    assert rung(judged, 0) == [3.0, 5.0]
    assert judged.on_trial_result(None, trial, report(51, 2.0)) == TrialScheduler.CONTINUE
    judged.on_trial_complete(None, trial, report(150, 1.0))
    assert (rung(judged, 0), rung(judged, 1)) == ([3.0, 5.0], [2.0, 4.0])


def test_a_trial_that_goes_on_is_not_stopped_for_what_it_had_shown_before():
    kind = MedianScheduler(first=10, least_trials=2)
    inner = build_scheduler(kind, Course(40), lambda config: config)
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

    def is_finished(self):
        return self.status in (Trial.TERMINATED, Trial.ERROR)


def population(size, every):
    """A population's scheduler, its trials, and what runs them."""
    trials = [Member(f"t{number}") for number in range(size)]
    living = lambda: {trial for trial in trials if not trial.is_finished()}  # noqa: E731
    controller = SimpleNamespace(search_alg=None, get_trials=lambda: trials, get_live_trials=living)
    controller._schedule_trial_save = lambda trial, result: None
    inner = build_scheduler(PbtScheduler(every=every), Course(5 * every), lambda config: config)
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
