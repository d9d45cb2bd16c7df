"""Learning rate as a pure function of the step."""

import math
from collections.abc import Callable

from rayllm.optim.config import ScheduleConfig

#: Decay from 1 at progress 0 to 0 at progress 1, by name.
SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "constant": lambda progress: 1.0,
}


def lr_frac(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step.

    Args:
        schedule: Shape, warm-up and floor.
        step: The step about to be taken, from 0.
        total_steps: Steps of the whole run.

    Returns:
        ``(step + 1) / warmup`` while warming up, then from 1 down to ``min_lr_frac`` at the last step.

    Source: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983, section 3 (cosine, one cycle).
    """
    warmup_steps = round(schedule.warmup_frac * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - 1 - warmup_steps)
    shape = SHAPES[schedule.kind](min(1.0, progress))
    return schedule.min_lr_frac + (1 - schedule.min_lr_frac) * shape
