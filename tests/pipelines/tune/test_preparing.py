"""What a sweep changes of a trial's training: only when it looks at it, and what it keeps."""

import pytest

from rayllm.pipelines.tune.preparing import KEEP, Course, judged_at, prepare_training
from rayllm.train.config import TrainConfig
from rayllm.tune.schedulers import AshaScheduler, MedianScheduler, NoScheduler, PbtScheduler

CONFIG = TrainConfig(max_steps=90, validation={"every_steps": 30})


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        (NoScheduler(), []),
        (AshaScheduler(first=10, reduction=3), [10, 30]),
        (MedianScheduler(first=20), [20, 40, 60, 80]),
        (PbtScheduler(every=40), [40, 80]),
    ],
)
def test_a_trial_is_validated_wherever_its_scheduler_judges_it(scheduler, steps):
    validation = prepare_training(scheduler, Course(90), CONFIG).validation
    assert judged_at(scheduler, Course(90)) == steps
    assert [step for step in range(1, 90) if validation.due(step)] == sorted({30, 60, *steps})


def test_a_population_saves_at_its_intervals_and_keeps_what_others_take_over():
    checkpoint = prepare_training(PbtScheduler(every=40), Course(90), CONFIG).checkpoint
    assert (checkpoint.every_steps, checkpoint.keep_last) == (40, KEEP)
    assert prepare_training(NoScheduler(), Course(90), CONFIG).checkpoint == CONFIG.checkpoint


@pytest.mark.parametrize(
    ("scheduler", "steps", "origin"),
    [
        (AshaScheduler(), [625, 700], 600),
        (AshaScheduler(first=10, reduction=3), [610, 630, 690, 870], 600),
        (MedianScheduler(), [700, 800, 900], 600),
        (PbtScheduler(every=90), [630, 720, 810, 900, 990], 540),  # where checkpoints are
    ],
)
def test_the_rungs_of_a_fork_count_from_where_it_begins(scheduler, steps, origin):
    course = Course(1000, begun=600)
    assert course.origin(scheduler) == origin
    assert judged_at(scheduler, course) == steps
