"""The sample that a tokenizer learns from keeps its cap, its weights and its order."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.core.errors import ConfigError
from rayllm.tokenizer.sample import plan_budgets, spread, take, within_budget

sizes = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 10**12), min_size=1)


@given(available=sizes, max_bytes=st.integers(1, 10**9))
def test_budgets_never_exceed_the_cap_or_the_text(available, max_bytes):
    budgets = plan_budgets(available, max_bytes, None)
    assert sum(budgets.values()) <= min(max_bytes, sum(available.values()))
    assert all(budgets[name] <= available[name] for name in budgets)


def test_without_weights_everything_is_taken_when_it_fits():
    assert plan_budgets({"a": 70, "b": 30}, 1000, None) == {"a": 70, "b": 30}


def test_weights_hold_even_where_a_domain_is_small():
    assert plan_budgets({"a": 900, "b": 100}, 1000, {"a": 1, "b": 1}) == {"a": 500, "b": 500}


def test_a_domain_without_weight_is_left_out():
    assert plan_budgets({"a": 900, "b": 100}, 1000, {"a": 2}) == {"a": 1000}


@pytest.mark.parametrize("weights", [{"c": 1.0}, {"a": 0.0}, {"empty": 1.0}, {}])
def test_weights_that_cannot_hold_are_refused(weights):
    with pytest.raises(ConfigError, match=r"fit_tokenizer\.weights"):
        plan_budgets({"a": 900, "empty": 0}, 1000, weights)


def test_a_rate_above_one_repeats_and_one_below_leaves_out():
    texts = [str(i) for i in range(1000)]
    assert list(take(texts, 1.0, 7)) == texts
    assert list(take(texts, 3.0, 7)) == [text for text in texts for _ in range(3)]
    half = list(take(texts, 0.5, 7, "shard"))
    assert 400 < len(half) < 600
    assert half == list(take(texts, 0.5, 7, "shard"))
    assert half != list(take(texts, 0.5, 7, "other shard"))
    assert 2400 < len(list(take(texts, 2.5, 7))) < 2600


@given(texts=st.lists(st.text(max_size=5)), budget=st.integers(0, 40))
def test_a_budget_is_kept_in_bytes(texts, budget):
    kept = list(within_budget(texts, budget))
    assert sum(len(text.encode()) for text in kept) <= budget


@given(count=st.integers(0, 5000), most=st.integers(1, 64))
def test_spread_numbers_are_distinct_in_range_and_even(count, most):
    chosen = spread(count, most)
    assert len(set(chosen)) == len(chosen) == min(count, most)
    assert chosen == sorted(chosen)
    assert all(0 <= i < count for i in chosen)
    gaps = {b - a for a, b in pairwise(chosen)}
    assert not gaps or max(gaps) - min(gaps) <= 1
