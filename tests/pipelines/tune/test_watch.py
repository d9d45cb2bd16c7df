"""When a sweep says that no trial can start."""

import time
from types import SimpleNamespace

import pytest
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.tune.experiment import Trial

from rayllm.pipelines.tune import watch
from rayllm.pipelines.tune.capacity import Needs

JOB = b"\x01\x00\x00\x00"
WAITS, TRAINS = PlacementGroupTableData.PENDING, PlacementGroupTableData.CREATED


def group(state):
    return PlacementGroupTableData(state=state, creator_job_id=JOB, creator_actor_id=b"\x05" * 16)


@pytest.mark.parametrize(("states", "lines"), [([WAITS], 1), ([TRAINS, WAITS], 0), ([TRAINS], 0)])
def test_trials_of_several_workers_wait_without_a_word_while_another_one_trains(states, lines, monkeypatch):
    told = []
    monkeypatch.setattr(watch, "release_abandoned", lambda: 0)
    monkeypatch.setattr(watch, "all_groups", lambda: [group(state) for state in states])
    monkeypatch.setattr(watch.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=JOB.hex))
    monkeypatch.setattr(watch.ray, "available_resources", lambda: {"CPU": 1.0})
    monkeypatch.setattr(watch.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(watch.logger, "warning", lambda message, *values: told.append(message % values))
    book = SimpleNamespace(live={"a": 1, "b": 2}, overdue=lambda: False, keep=lambda: None)
    watching = watch.Watch(book, Needs(1, 0, 2), SimpleNamespace(asked=False))
    trials = [SimpleNamespace(trial_id=name, status=Trial.RUNNING) for name in "ab"]  # so they are for Tune
    watching.on_step_end(0, trials)
    assert told == []
    now = time.monotonic() + watch.WAITING_NOTICE_S + 1  # the last validation was so long ago
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    watching.on_step_end(1, trials)
    assert told == ["no trial can start: it wants 2 CPU (1 of 2 free)"] * lines
