"""The median rule as a sweep uses it: who is stopped, when, and against whom."""

import math
from types import SimpleNamespace

import pytest
from made_results import result
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from rayllm.pipelines.tune.preparing import Course
from rayllm.pipelines.tune.schedulers import Around, Judged, build_scheduler
from rayllm.tune.results import Point
from rayllm.tune.schedulers import MedianScheduler

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def judged(begun=0, **settings):
    """The rule over trials of 40 steps, of which none is stopped before the tenth."""
    around = Around(lambda config: config, lambda: 2, lambda: False)
    inner = build_scheduler(MedianScheduler(**settings), Course(begun + 40, begun), around)
    return Judged(inner, lambda metrics, _: metrics.get("m", math.nan), begun)


def come(sweep, trial, step, value):
    point = Point(step=step, tokens=step, metrics={} if value is None else {"m": value})
    report = {"progress": SimpleNamespace(reached=SimpleNamespace(point=point))}
    return sweep.on_trial_result(None, trial, report)


class Member:
    """A trial, as far as the rule looks at it."""

    def __init__(self, name):
        self.trial_id, self.status = name, Trial.RUNNING


def join(sweep, name):
    trial = Member(name)
    sweep.on_trial_add(None, trial)
    return trial


@pytest.mark.parametrize("begun", [0, 600])
def test_a_trial_worse_than_the_median_of_the_others_stops_once_it_may(begun):
    sweep = judged(begun)
    for name, value in {"a": 1.0, "b": 2.0, "c": 3.0}.items():
        trial = join(sweep, name)
        assert [come(sweep, trial, begun + step, value) for step in (5, 10, 20)] == [CONTINUE] * 3
    assert come(sweep, join(sweep, "better"), begun + 10, 1.9) == CONTINUE
    worse = join(sweep, "worse")
    assert come(sweep, worse, begun + 9, 2.1) == CONTINUE  # too early to say
    assert come(sweep, worse, begun + 10, 2.1) == STOP


def test_the_best_value_so_far_counts_not_the_last_one():
    sweep = judged()
    for name in ("a", "b", "c"):
        come(sweep, join(sweep, name), 10, 2.0)
    trial = join(sweep, "once good")
    assert [come(sweep, trial, step, value) for step, value in ((5, 1.5), (10, 9.0))] == [CONTINUE] * 2


def test_nobody_stops_while_too_few_others_have_come_as_far():
    sweep = judged(least_trials=3)
    for name in ("a", "b"):
        come(sweep, join(sweep, name), 20, 1.0)
    trial = join(sweep, "worse")
    assert come(sweep, trial, 10, 9.0) == CONTINUE
    come(sweep, join(sweep, "c"), 20, 1.0)
    assert come(sweep, trial, 20, 9.0) == STOP


def test_trials_of_earlier_starts_are_among_the_others_and_what_diverged_stops():
    sweep = judged()
    curve = [Point(step=10, tokens=1, metrics={"m": 1.0})]
    sweep.recall([result(number, curve=curve) for number in range(3)])
    assert come(sweep, join(sweep, "diverged"), 10, None) == STOP


def test_a_trial_that_has_shown_nothing_yet_is_in_nobodys_way():
    sweep = judged()
    first = join(sweep, "first")
    join(sweep, "just joined")
    assert come(sweep, first, 10, 1.0) == CONTINUE
