"""What decides which trials go on: Ray Tune's schedulers, on the steps and values that a sweep gives them."""

from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from rayllm.pipelines.tune.preparing import Course
from rayllm.pipelines.tune.schedulers import Judged, build_scheduler
from rayllm.tune.results import Point
from rayllm.tune.schedulers import AshaScheduler


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
