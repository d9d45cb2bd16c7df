"""Learning rate and momentum as pure functions of the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from rayllm.optim.config import (
    AdamWConfig,
    ConstantSchedule,
    CosineSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    MuonConfig,
    WSDSchedule,
)

Schedule = ConstantSchedule | CosineSchedule | LinearSchedule | InverseSqrtSchedule | WSDSchedule


@dataclass(frozen=True)
class Rates:
    """What the schedules say of one step.

    Attributes:
        lr: Learning rate, before a group's own factor.
        momentum: Muon's momentum; AdamW has its betas instead.
    """

    lr: float
    momentum: float = 0.0


#: Way down from 1 at progress 0 to 0 at progress 1, by name. ``sqrt`` is "1-sqrt" of Hägele et al. 2024, Scaling Laws
#: and Compute-Optimal Training Beyond Fixed Training Durations, arXiv:2405.18392, section 3.
SHAPES: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1 - progress,
    "sqrt": lambda progress: 1 - math.sqrt(progress),
}


def rates_at(optimizer: AdamWConfig | MuonConfig, schedule: Schedule, step: int, total_steps: int) -> Rates:
    """Everything that depends on the step alone.

    Args:
        optimizer: Peak learning rate and momentum.
        schedule: Shape of the learning rate.
        step: The step about to be taken, from 0.
        total_steps: Steps of the whole run.
    """
    momentum = momentum_at(optimizer, step) if isinstance(optimizer, MuonConfig) else 0.0
    return Rates(lr=optimizer.lr * lr_frac(schedule, step, total_steps), momentum=momentum)


def momentum_at(optimizer: MuonConfig, step: int) -> float:
    """Muon's momentum at a step: from ``momentum_start`` in a line to ``momentum``, then constant.

    Early gradients turn fast, and a long memory would average over directions that no longer hold.

    Source: Jordan et al. 2024, modded-nanogpt (0.85 to 0.95 over 300 steps).
    """
    progress = min(1.0, step / optimizer.momentum_warmup_steps) if optimizer.momentum_warmup_steps else 1.0
    return (1 - progress) * optimizer.momentum_start + progress * optimizer.momentum


def lr_frac(schedule: Schedule, step: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step.

    Args:
        schedule: Shape, warm-up and floor.
        step: The step about to be taken, from 0.
        total_steps: Steps of the whole run.

    Returns:
        ``(step + 1) / warmup`` while warming up, then from 1 down to ``min_lr_frac`` as the schedule's kind says.
    """
    warmup_steps = round(schedule.warmup_frac * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return AFTER_WARMUP[type(schedule)](schedule, step, warmup_steps, total_steps)


def _constant(schedule: ConstantSchedule, step: int, warmup_steps: int, total_steps: int) -> float:
    return 1.0


def _cosine(schedule: CosineSchedule, step: int, warmup_steps: int, total_steps: int) -> float:
    return _down(SHAPES["cosine"], schedule.min_lr_frac, step, warmup_steps, total_steps)


def _linear(schedule: LinearSchedule, step: int, warmup_steps: int, total_steps: int) -> float:
    return _down(SHAPES["linear"], schedule.min_lr_frac, step, warmup_steps, total_steps)


def _inverse_sqrt(schedule: InverseSqrtSchedule, step: int, warmup_steps: int, total_steps: int) -> float:
    return max(schedule.min_lr_frac, math.sqrt(max(1, warmup_steps) / (step + 1)))


def decay_start(schedule: WSDSchedule, total_steps: int) -> int:
    """Steps before the learning rate decays; runs that differ in their decay alone share them."""
    return max(round(schedule.warmup_frac * total_steps), total_steps - round(schedule.decay_frac * total_steps))


def _wsd(schedule: WSDSchedule, step: int, warmup_steps: int, total_steps: int) -> float:
    first = decay_start(schedule, total_steps)
    if step == first == total_steps - 1:  # the one step that decays is the last of all, which has the floor
        return schedule.min_lr_frac
    return _down(SHAPES[schedule.decay_shape], schedule.min_lr_frac, step, first, total_steps)


def _down(shape: Callable[[float], float], floor: float, step: int, first: int, total_steps: int) -> float:
    """1 until step ``first``, the floor at the last step of all, and the shape between them."""
    progress = (step - first) / max(1, total_steps - 1 - first)
    return floor + (1 - floor) * shape(min(1.0, max(0.0, progress)))


#: What follows the warm-up, by the schedule's class.
AFTER_WARMUP: dict[type, Callable[..., float]] = {
    ConstantSchedule: _constant,
    CosineSchedule: _cosine,
    LinearSchedule: _linear,
    InverseSqrtSchedule: _inverse_sqrt,
    WSDSchedule: _wsd,
}
