import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.data.mixing.mixture import Mixture, chairman_order, mix64, permute
from rayllm.data.mixing.plan import Plan, RowIndex, StageRow
from rayllm.data.mixing.weights import PERIOD, quantize

shares = st.lists(st.floats(0.001, 1), min_size=1, max_size=9).map(lambda x: [v / sum(x) for v in x])


def make_plan(stages, tokens, seed=7):
    return Plan(seed, {f"d{i}": n for i, n in enumerate(tokens)}, tuple(StageRow(*stage) for stage in stages))


@settings(deadline=None)
@given(shares)
def test_after_any_number_of_draws_each_domain_is_within_one_of_its_weight(shares):
    weights = quantize(shares)
    order = chairman_order(weights)
    counts = np.cumsum(order[:, None] == np.arange(len(weights)), axis=0)
    targets = np.arange(1, PERIOD + 1)[:, None] * np.asarray(weights) / PERIOD
    bound = 1 - 1 / (2 * max(len(weights) - 1, 1)) if len(weights) > 1 else 0
    assert np.abs(counts - targets).max() <= bound < 1
    assert tuple(counts[-1]) == weights


@settings(deadline=None, max_examples=30)
@given(shares, st.integers(0, 5000), st.integers(1, 3000))
def test_in_any_window_each_domain_is_within_two_of_its_weight(shares, first, length):
    weights = quantize(shares)
    mixture = Mixture(make_plan([(10_000, 4, 1, weights)], [4000] * len(weights)))
    domain, _ = mixture.draws(0, first, length)
    counts = np.bincount(domain, minlength=len(weights))
    assert np.abs(counts - length * np.asarray(weights) / PERIOD).max() < 2


def test_the_order_of_a_small_period_is_the_one_computed_by_hand():
    # Weights 1/2, 1/4, 1/4; k = 3: who claims 1/4 or more may be chosen, and nobody's claim may pass 3/4.
    # Claims are 1/2 1/4 1/4, then 0 1/2 1/2, then 1/2 -1/4 3/4 (both due at draw 4: the first wins), then 0 0 1.
    assert chairman_order((2, 1, 1)).tolist() == [0, 1, 0, 2]


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**62))
def test_the_permutation_is_a_bijection_for_any_size_and_key(size, key):
    places = permute(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))
    assert np.array_equal(np.sort(places), np.arange(size))


def test_the_permutation_spreads_every_position_evenly_over_keys():
    size, keys = 10, 4000
    key = mix64(np.repeat(np.arange(keys, dtype=np.uint64), size))
    places = permute(np.tile(np.arange(size), keys), np.full(size * keys, size), key).reshape(keys, size)
    for position in range(size):
        counts = np.bincount(places[:, position], minlength=size)
        chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum()
        assert chi_square < 33  # the 99.99 % point for 9 degrees of freedom
    ascents = np.mean(places[:, 1:] > places[:, :-1])
    assert abs(ascents - 0.5) < 0.01


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.sampled_from([2, 4, 8, 16]), st.integers(1, 40)), min_size=1, max_size=4
    ),
    st.integers(20_000, 400_000),
    shares,
)
def test_no_token_is_read_twice_in_an_epoch_across_stages_of_different_length(stages, tokens, shares):
    weights = quantize(shares)
    rows = [
        (steps, seq_len, batch, weights[i % 2 :] + weights[: i % 2]) for i, (steps, seq_len, batch) in enumerate(stages)
    ]
    plan = make_plan(rows, [tokens] * len(weights))
    mixture = Mixture(plan)
    read = Counter()
    for index, stage in enumerate(plan.stages):
        domain, row = mixture.draws(index, 0, stage.steps * stage.batch_rows)
        first = row * stage.seq_len
        starts = np.arange(0, stage.seq_len, 2)  # all lengths are multiples of two tokens
        pairs = (domain * 10**9 + first)[:, None] + starts
        read.update(pairs.ravel().tolist())
        assert (first + stage.seq_len < tokens).all()
    # Rows of a period that a stage leaves out may be missed, so a domain's draws bound its epochs from above.
    periods = [-(-s.steps * s.batch_rows // (PERIOD * plan.block_tokens // s.seq_len)) for s in plan.stages]
    for index in range(len(weights)):
        draws = sum(count * stage.weights[index] for count, stage in zip(periods, plan.stages, strict=True))
        most = max((n for key, n in read.items() if key // 10**9 == index), default=0)
        assert most <= -(-draws // plan.domain_blocks[index])


def test_an_epoch_reads_every_block_once_and_the_next_one_in_another_order():
    plan = make_plan([(40, 8, 64, (1024,))], [8 * 1000 + 1])
    _, row = Mixture(plan).draws(0, 0, 2000)
    assert sorted(row[:1000]) == sorted(row[1000:]) == list(range(1000))
    assert not np.array_equal(row[:1000], row[1000:])


def test_the_rows_of_one_block_are_a_period_apart():
    plan = make_plan([(64, 4, 64, (512, 512)), (1, 16, 1, (512, 512))], [10_000 * 16 + 1] * 2)
    domain, row = Mixture(plan).draws(0, 0, 4 * PERIOD)
    assert (row[:PERIOD] % 4 == 0).all()
    for part in range(1, 4):
        assert np.array_equal(row[:PERIOD] + part, row[part * PERIOD : (part + 1) * PERIOD])
        assert np.array_equal(domain[:PERIOD], domain[part * PERIOD : (part + 1) * PERIOD])


@settings(deadline=None)
@given(st.integers(0, 10**12), st.integers(0, 300), st.integers(0, 300))
def test_draws_are_a_function_of_the_row_alone(first, left, right):
    mixture = MIXTURE
    whole = mixture.draws(0, first, left + right)
    parts = mixture.draws(0, first, left), mixture.draws(0, first + left, right)
    for axis in range(2):
        assert np.array_equal(whole[axis], np.concatenate([parts[0][axis], parts[1][axis]]))


MIXTURE = Mixture(make_plan([(10**9, 128, 512, quantize([0.5, 0.3, 0.2]))], [10**9, 10**7, 10**5]))


def test_batches_of_any_size_cut_the_same_rows():
    small, large = (
        Mixture(make_plan([(count, 8, rows, (600, 424))], [90_000, 50_000])) for count, rows in ((60, 10), (6, 100))
    )
    assert all(np.array_equal(a, b) for a, b in zip(small.draws(0, 0, 600), large.draws(0, 0, 600), strict=True))


def test_jumping_to_a_far_row_costs_no_more_than_reading_the_first():
    MIXTURE.draws(0, 0, 1)
    start = time.perf_counter()
    MIXTURE.draws(0, 512 * (10**9 - 1), 512)
    assert time.perf_counter() - start < 0.1


def test_the_seed_and_the_name_of_a_domain_decide_its_order():
    weights = (512, 512)
    one = Mixture(make_plan([(9, 4, 64, weights)], [4001] * 2)).draws(0, 0, 512)
    other = Mixture(make_plan([(9, 4, 64, weights)], [4001] * 2, seed=8)).draws(0, 0, 512)
    assert np.array_equal(one[0], other[0])
    assert not np.array_equal(one[1], other[1])
    assert one[1][one[0] == 0].tolist() != one[1][one[0] == 1].tolist()


@pytest.mark.parametrize("step", [0, 1, 37, 50, 63, 90])
def test_domain_tokens_counts_what_was_drawn(step):
    plan = make_plan([(50, 4, 48, (700, 300, 24)), (40, 8, 31, (24, 0, 1000))], [9000, 8000, 7000])
    mixture, counted = Mixture(plan), np.zeros(3, int)
    for index, (first, stage) in enumerate(zip((0, 50), plan.stages, strict=True)):
        steps = min(max(step - first, 0), stage.steps)
        domain, _ = mixture.draws(index, 0, steps * stage.batch_rows)
        counted += np.bincount(domain, minlength=3) * stage.seq_len
    assert list(mixture.domain_tokens(step).values()) == counted.tolist()


def indexed_plan(stages, rows, seed=7):
    """A plan over best-fit rows: for each length the rows of each domain."""
    indexes = tuple(RowIndex(length, count, ("0" * 64,) * len(count)) for length, count in rows.items())
    tokens = {f"d{i}": 10**6 for i in range(len(next(iter(rows.values()))))}
    return Plan(seed, tokens, tuple(StageRow(*stage) for stage in stages), "best_fit", indexes)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.integers(1, 300), st.sampled_from([8, 16, 24]), st.integers(1, 40)), min_size=1, max_size=5),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
    st.tuples(st.integers(1, 900), st.integers(1, 900)),
)
def test_no_best_fit_row_is_read_twice_in_an_epoch_of_its_length(stages, few, many):
    rows = {8: many, 16: few, 24: few[::-1]}
    plan = indexed_plan([(*stage, (600, 424)) for stage in stages], rows)
    mixture, read = Mixture(plan), Counter()
    for index, stage in enumerate(plan.stages):
        domain, row = mixture.draws(index, 0, stage.steps * stage.batch_rows)
        assert (row < np.asarray(rows[stage.seq_len])[domain]).all()
        read.update(zip([stage.seq_len] * len(row), domain.tolist(), row.tolist(), strict=True))
    for length in {stage.seq_len for stage in plan.stages}:
        periods = sum(-(-s.steps * s.batch_rows // PERIOD) for s in plan.stages if s.seq_len == length)
        for domain, weight in enumerate((600, 424)):
            most = max((n for key, n in read.items() if key[:2] == (length, domain)), default=0)
            assert most <= -(-periods * weight // rows[length][domain])


def test_an_epoch_of_best_fit_rows_reads_each_of_them_once():
    plan = indexed_plan([(10, 16, 50, (1024,)), (10, 8, 30, (1024,)), (10, 16, 20, (1024,))], {8: (999,), 16: (1024,)})
    _, first = Mixture(plan).draws(0, 0, 500)
    _, second = Mixture(plan).draws(2, 0, 200)  # a new epoch: the first stage's period is spent
    assert len(set(first.tolist())) == 500
    assert len(set(second.tolist())) == 200
    _, whole = Mixture(indexed_plan([(1, 16, 1024, (1024,))], {16: (1024,)})).draws(0, 0, 1024)
    assert sorted(whole.tolist()) == list(range(1024))
