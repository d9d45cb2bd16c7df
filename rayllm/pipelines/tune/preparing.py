"""A trial's training as its sweep needs it: validations where it is judged, checkpoints where others take it over.

Nothing of this changes what the trial learns.
"""

from rayllm.train.config import TrainConfig
from rayllm.tune.schedulers import AshaScheduler, MedianScheduler, NoScheduler, PbtScheduler, SchedulerConfig

#: Checkpoints that a trial of a population keeps: none may be gone before the trial that takes it over has read it.
KEEP = 1000


def prepare_training(scheduler: SchedulerConfig, total_steps: int, config: TrainConfig) -> TrainConfig:
    """The training of a trial under a scheduler.

    Args:
        scheduler: The section of the run file.
        total_steps: Of a whole trial.
        config: Of the trial.
    """
    steps = judged_at(scheduler, total_steps)
    validation = config.validation.model_copy(update={"at_steps": sorted({*config.validation.at_steps, *steps})})
    samples = config.samples.model_copy(update={"every_steps": 0, "max_new_tokens": 1})  # which nobody reads
    config = config.model_copy(update={"validation": validation, "samples": samples})
    if not isinstance(scheduler, PbtScheduler):
        return config
    every = scheduler.interval(total_steps)
    checkpoint = config.checkpoint.model_copy(update={"every_steps": every, "keep_last": KEEP})
    return config.model_copy(update={"checkpoint": checkpoint})


def judged_at(scheduler: SchedulerConfig, total_steps: int) -> list[int]:
    """Steps before the last at which a scheduler wants to know how a trial does."""
    match scheduler:
        case NoScheduler():
            return []
        case AshaScheduler():
            return scheduler.rungs(total_steps)
        case MedianScheduler():
            first = scheduler.first_step(total_steps)
            return list(range(first, total_steps, first))
        case PbtScheduler():
            every = scheduler.interval(total_steps)
            return list(range(every, total_steps, every))
