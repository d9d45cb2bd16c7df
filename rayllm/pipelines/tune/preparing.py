"""A trial's training as its sweep needs it: validations where it is judged, checkpoints where others take it over.

Nothing of this changes what the trial learns: what counts validations, or goes back to checkpoints, is refused by
``plan``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayllm.train.config import TrainConfig
from rayllm.tune.schedulers import AshaScheduler, MedianScheduler, NoScheduler, PbtScheduler, SchedulerConfig

#: Checkpoints that a trial of a population keeps: none may be gone before the trial that takes it over has read it.
KEEP = 1000


@dataclass(frozen=True)
class Course:
    """The steps of a whole trial.

    Attributes:
        total: The last one.
        begun: Where it begins: 0, or the step of the checkpoint that it forks.
    """

    total: int
    begun: int = 0

    def origin(self, scheduler: SchedulerConfig) -> int:
        """The step from which a scheduler counts: the fork; a population saves at multiples of its interval only."""
        return self.begun - self.begun % self.interval(scheduler) if isinstance(scheduler, PbtScheduler) else self.begun

    def own(self, scheduler: SchedulerConfig) -> int:
        """Steps from there to the end."""
        return self.total - self.origin(scheduler)

    def interval(self, scheduler: PbtScheduler) -> int:
        """Steps between a population's changes."""
        return scheduler.interval(self.total - self.begun)


def prepare_training(scheduler: SchedulerConfig, course: Course, config: TrainConfig) -> TrainConfig:
    """The training of a trial under a scheduler.

    Args:
        scheduler: The section of the run file.
        course: Of a whole trial.
        config: Of the trial.
    """
    steps = judged_at(scheduler, course)
    validation = config.validation.model_copy(update={"at_steps": sorted({*config.validation.at_steps, *steps})})
    samples = config.samples.model_copy(update={"every_steps": 0, "max_new_tokens": 1})  # which nobody reads
    config = config.model_copy(update={"validation": validation, "samples": samples})
    changes: dict[str, Any] = {}
    if isinstance(scheduler, AshaScheduler):  # a trial waits at a rung, and another takes its process
        changes = {"at_steps": sorted({*config.checkpoint.at_steps, *steps})}
    elif isinstance(scheduler, PbtScheduler):
        changes = {"every_steps": course.interval(scheduler), "keep_last": KEEP}
    return config.model_copy(update={"checkpoint": config.checkpoint.model_copy(update=changes)})


def judged_at(scheduler: SchedulerConfig, course: Course) -> list[int]:
    """Steps before the last at which a scheduler wants to know how a trial does."""
    own = course.own(scheduler)
    match scheduler:
        case NoScheduler():
            after: Sequence[int] = []
        case AshaScheduler():
            after = scheduler.rungs(own)
        case MedianScheduler():
            first = scheduler.first_step(own)
            after = range(first, own, first)
        case PbtScheduler():
            every = course.interval(scheduler)
            after = range(every, own, every)
    return [course.origin(scheduler) + steps for steps in after]
