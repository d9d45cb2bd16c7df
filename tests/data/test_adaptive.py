import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.data.mixing.adaptive import Move, at_tokens, draws, move_plan, next_shares
from rayllm.data.mixing.adaptive_config import AdaptiveConfig
from rayllm.data.mixing.continuing import continue_plan
from rayllm.data.mixing.curriculum import build_plan
from rayllm.data.mixing.plan import Plan
from rayllm.data.mixing.weights import MixtureConfig

NAMES = ("a", "b", "c")


def config(**changes) -> AdaptiveConfig:
    return AdaptiveConfig(reference={"a": 1.0}, **changes)


def plan() -> Plan:
    return build_plan(
        mixture=MixtureConfig(weights={"a": 2, "b": 1, "c": 1}),
        curriculum=[],
        seq_len=128,
        global_batch_tokens=1024,
        domain_tokens={"a": 30_000, "b": 20_000, "c": 10_000},
        seed=1,
        max_steps=100,
    )


def test_a_move_multiplies_each_weight_by_its_exponentiated_excess():
    made = next_shares({"a": 0.5, "b": 0.5}, {"a": 0.2, "b": 0.0}, config(rate=1.0, max_change=1.0))
    assert made["a"] / made["b"] == pytest.approx(math.exp(0.2))
    assert sum(made.values()) == pytest.approx(1)


def test_an_excess_below_zero_counts_as_none():
    assert next_shares({"a": 0.5, "b": 0.5}, {"a": -9.0, "b": 0.0}, config()) == pytest.approx({"a": 0.5, "b": 0.5})


@given(
    st.lists(st.floats(0.02, 1), min_size=3, max_size=3),
    st.lists(st.floats(-1, 5), min_size=3, max_size=3),
    st.floats(0.01, 0.3),
)
def test_a_move_keeps_its_limits_and_the_sum(parts, excess, change):
    shares = {name: part / sum(parts) for name, part in zip(NAMES, parts, strict=True)}
    settings = config(rate=3.0, min_weight=0.05, max_weight=0.6, max_change=change)
    made = next_shares(shares, dict(zip(NAMES, excess, strict=True)), settings)
    assert sum(made.values()) == pytest.approx(1)
    for name, share in shares.items():
        assert abs(made[name] - share) <= change + 1e-9
        assert min(share, 0.05) - 1e-9 <= made[name] <= max(share, 0.6) + 1e-9


def test_domains_without_a_reference_or_a_weight_keep_theirs():
    made = next_shares({"a": 0.4, "b": 0.2, "c": 0.4, "d": 0.0}, {"a": 0.5, "b": 0.0, "d": 9.0}, config(max_change=1.0))
    assert (made["c"], made["d"]) == (0.4, 0.0)
    assert made["a"] + made["b"] == pytest.approx(0.6)
    assert made["a"] > 0.4


def test_a_move_adds_a_row_and_leaves_what_was_read():
    moved = move_plan(plan(), [Move(10, (612, 206, 206)), Move(30, (700, 162, 162))])
    assert [(row.steps, row.weights) for row in moved.stages] == [
        (10, (512, 256, 256)),
        (20, (612, 206, 206)),
        (70, (700, 162, 162)),
    ]


@given(st.lists(st.integers(1, 99), max_size=6, unique=True), st.integers(1, 99))
def test_moves_made_one_by_one_again_or_by_a_fork_give_the_same_table(steps, at):
    moves = [Move(step, (512 + index, 256, 256 - index)) for index, step in enumerate(sorted(steps), 1)]
    made = move_plan(plan(), moves)
    one_by_one = plan()
    for move in moves:
        one_by_one = move_plan(one_by_one, [move])
    assert one_by_one == made
    assert move_plan(made, moves) == made
    known = [move for move in moves if move.step < at]
    forked = continue_plan(made, at, move_plan(plan(), known))
    assert move_plan(forked, moves) == made


def test_shares_become_draws_of_a_period():
    assert draws({"a": 0.5, "b": 0.25, "c": 0.25}) == (512, 256, 256)


def test_a_reference_is_read_at_equal_tokens():
    curve = [(0.0, 8.0), (100.0, 4.0), (300.0, 2.0)]
    assert [at_tokens(curve, tokens) for tokens in (-1, 0, 50, 100, 200, 300, 999)] == [8, 8, 6, 4, 3, 2, 2]
    assert at_tokens([(0.0, 1.5)], 77) == 1.5


def test_limits_without_room_are_refused():
    with pytest.raises(ValueError, match="nothing could move"):
        config(min_weight=0.5, max_weight=0.5)
    with pytest.raises(ValueError, match=r"adaptive\.max_weight"):
        MixtureConfig(cap="redistribute", adaptive=config())
