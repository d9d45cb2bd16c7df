import math

from rayllm.train.guards.config import SpikesConfig
from rayllm.train.guards.spikes import ENOUGH, describe_spike

CALM = [2.0 + 0.01 * (-1) ** step for step in range(60)]


def test_a_loss_far_above_those_before_it_is_a_spike() -> None:
    assert describe_spike(CALM, 2.07, SpikesConfig()) == "loss 2.0700 is 7.0 standard deviations above the last 60"
    assert describe_spike(CALM, 2.07, SpikesConfig(z=8)) is None


def test_a_loss_that_falls_or_is_not_finite_is_none() -> None:
    for loss in (0.5, math.nan, math.inf, -math.inf):
        assert describe_spike(CALM, loss, SpikesConfig()) is None


def test_nothing_is_said_of_few_losses_or_where_it_is_off() -> None:
    assert describe_spike(CALM[: ENOUGH - 1], 99.0, SpikesConfig()) is None
    assert describe_spike(CALM, 99.0, SpikesConfig(z=0)) is None


def test_only_the_window_counts() -> None:
    wild = [9.0, 1.0] * 30 + CALM[:32]
    assert describe_spike(wild, 3.0, SpikesConfig(window=32))
    assert describe_spike(wild, 3.0, SpikesConfig(window=92)) is None
