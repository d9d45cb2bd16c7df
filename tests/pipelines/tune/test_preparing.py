"""What a sweep changes of a trial's training: only when it looks at it, and what it keeps."""

import pytest

from rayllm.pipelines.tune.preparing import KEEP, judged_at, prepare_training
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
    validation = prepare_training(scheduler, 90, CONFIG).validation
    assert judged_at(scheduler, 90) == steps
    assert [step for step in range(1, 90) if validation.due(step)] == sorted({30, 60, *steps})


def test_a_population_saves_at_its_intervals_and_keeps_what_others_take_over():
    checkpoint = prepare_training(PbtScheduler(every=40), 90, CONFIG).checkpoint
    assert (checkpoint.every_steps, checkpoint.keep_last) == (40, KEEP)
    assert prepare_training(NoScheduler(), 90, CONFIG).checkpoint == CONFIG.checkpoint
