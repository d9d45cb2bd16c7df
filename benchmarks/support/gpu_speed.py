"""Tokens per second, MFU and peak memory of sides that take turns on one device, and their ratios."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from support.engine_steps import Step
from support.gpu_sides import Bench

WARM_UP_STEPS, ROUNDS = 3, 4


@dataclass(frozen=True)
class Work:
    """What one step amounts to.

    Attributes:
        tokens: Of the batch.
        flops_per_token: Forward and backward, by the PaLM convention.
        peak_flops: The device's dense bf16 peak a second; None where it is not known.
        steps: How many a side takes in its turn.
    """

    tokens: int
    flops_per_token: int
    peak_flops: float | None
    steps: int


@dataclass(frozen=True)
class Speed:
    """How fast a side is.

    Attributes:
        step_s: Seconds of a step in each round.
        tokens: Of a step.
        mfu: Share of the device's dense bf16 peak, by the PaLM convention; None where the peak is not known.
        peak_bytes: The most memory that this side alone held; 0 where the device does not say.
    """

    step_s: list[float]
    tokens: int
    mfu: float | None
    peak_bytes: int

    @property
    def tokens_per_s(self) -> float:
        """Median over the rounds."""
        return self.tokens / statistics.median(self.step_s)

    def over(self, other: "Speed") -> float:
        """How many times the other's speed: the median of the rounds' ratios."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.step_s, other.step_s, strict=True))


@dataclass(frozen=True)
class _Side:
    step: Step
    loss: float
    peak_bytes: int


def compare(builders: Mapping[str, Callable[[], Step]], work: Work, bench: Bench, *, spread: float) -> dict[str, Speed]:
    """Build ``plain``, ``ours`` and others one after another, see that those two agree, then time all in turn.

    Args:
        builders: Make a step each.
        work: What a step is.
        bench: Where.
        spread: The most by which the first losses of those two may differ, in nats.

    Raises:
        AssertionError: If they do not compute the same.
    """
    sides = {name: _build(build, bench.device) for name, build in builders.items()}
    losses = {name: sides[name].loss for name in ("plain", "ours")}
    assert abs(losses["plain"] - losses["ours"]) <= spread, f"the sides do not compute the same: {losses}"
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS):
        for name in sides if number % 2 == 0 else reversed(sides):
            times[name].append(_turn(sides[name].step, work.steps, bench.device))
    return {name: _speed(times[name], work, side.peak_bytes) for name, side in sides.items()}


def _speed(step_s: list[float], work: Work, peak_bytes: int) -> Speed:
    flops = work.flops_per_token * work.tokens / statistics.median(step_s)
    return Speed(step_s, work.tokens, flops / work.peak_flops if work.peak_flops else None, peak_bytes)


def release(device: torch.device) -> None:
    """Give back what the sides of the last comparison held."""
    gc.collect()
    torch.compiler.reset()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _build(build: Callable[[], Step], device: torch.device) -> _Side:
    on_gpu = device.type == "cuda"
    before = torch.cuda.memory_allocated(device) if on_gpu else 0
    step = build()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    loss = step()
    for _ in range(WARM_UP_STEPS):
        step()
    return _Side(step, loss, torch.cuda.max_memory_allocated(device) - before if on_gpu else 0)


def _turn(step: Step, steps: int, device: torch.device) -> float:
    """Mean seconds of a step."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / steps
