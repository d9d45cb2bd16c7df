"""Weights that move with the excess of each domain over a reference: one move, and the table that follows from all.

In: shares of the tokens, how much worse than the reference each domain is. Out: the next shares; and a plan with a row
more for each move, so that the table alone tells what was read, as without moves. Everything is a pure function.

Source: the update is that of DoReMi (Xie et al. 2023, arXiv:2305.10429, algorithm 1): multiplicative weights with the
excess over a reference model, clipped at 0. There it moves the weights of a small proxy's loss at every step, and their
mean becomes the mixture of another run; here it moves what the run itself reads, at its validations, with the excess
smoothed over time, as in online data mixing (Albalak et al. 2023, arXiv:2312.02406). Limits take the place of DoReMi's
uniform share.
"""

import dataclasses
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rayllm.data.mixing.adaptive_config import AdaptiveConfig
from rayllm.data.mixing.plan import Plan
from rayllm.data.mixing.weights import quantize

#: Halvings of the interval that holds the factor by which weights are normalised within their limits.
_BISECTIONS = 60

Curve = Sequence[tuple[float, float]]


class Move(NamedTuple):
    """From a step on, other weights.

    Attributes:
        step: First step that reads by them.
        weights: Draws of each domain in a period.
    """

    step: int
    weights: tuple[int, ...]


def next_shares(shares: Mapping[str, float], excess: Mapping[str, float], config: AdaptiveConfig) -> dict[str, float]:
    """One move of the weights.

    Args:
        shares: Share of each domain in the tokens.
        excess: Bits per byte above the reference, of the domains that may move; below 0 counts as 0.
        config: Rate and limits.

    Returns:
        Shares with the same sum. A domain without an excess, or with a share of 0, keeps its share.
    """
    moving = [name for name in shares if name in excess and shares[name] > 0]
    if len(moving) < 2:
        return dict(shares)
    grown = {name: shares[name] * math.exp(config.rate * max(excess[name], 0.0)) for name in moving}
    limits = {name: _limits(shares[name], config) for name in moving}
    return dict(shares) | _fit(grown, limits, sum(shares[name] for name in moving))


def _limits(share: float, config: AdaptiveConfig) -> tuple[float, float]:
    """How far a share may go in one move. One that lies outside the limits already may stay where it is."""
    lowest = max(share - config.max_change, min(config.min_weight, share))
    return lowest, min(share + config.max_change, max(config.max_weight, share))


def _fit(wanted: Mapping[str, float], limits: Mapping[str, tuple[float, float]], total: float) -> dict[str, float]:
    """The wanted shares times one factor, each held within its limits, with the given sum; found by bisection."""

    def scaled(factor: float) -> dict[str, float]:
        return {name: min(max(value * factor, limits[name][0]), limits[name][1]) for name, value in wanted.items()}

    low, high = 0.0, max(limits[name][1] / value for name, value in wanted.items())
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(scaled(middle).values()) < total else (low, middle)
    return scaled(high)


def draws(shares: Mapping[str, float]) -> tuple[int, ...]:
    """Shares as draws in a period."""
    total = sum(shares.values())
    return quantize([share / total for share in shares.values()])


def move_plan(plan: Plan, moves: Sequence[Move]) -> Plan:
    """The table of a run whose weights have moved: each move cuts the row of its step, and changes all that follow.

    Args:
        plan: The table without them.
        moves: In the order of their steps.
    """
    stages = list(plan.stages)
    for move in moves:
        kept, done = [], 0
        for row in stages:
            before = min(max(move.step - done, 0), row.steps)
            kept += [dataclasses.replace(row, steps=before)] if before else []
            if after := row.steps - before:
                kept.append(dataclasses.replace(row, steps=after, weights=move.weights))
            done += row.steps
        stages = kept
    return dataclasses.replace(plan, stages=tuple(stages))


def at_tokens(curve: Curve, tokens: float) -> float:
    """A reference's value at some tokens: on the line between its neighbours, at the ends the first and the last.

    Args:
        curve: Tokens read and the value there, in the order of the tokens; at least one.
        tokens: Where to look.
    """
    place = bisect_right([at for at, _ in curve], tokens)
    if place in (0, len(curve)):
        return curve[min(place, len(curve) - 1)][1]
    (left, low), (right, high) = curve[place - 1], curve[place]
    return low + (high - low) * (tokens - left) / (right - left)
