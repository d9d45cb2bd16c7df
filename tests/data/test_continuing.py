import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.core.errors import ConfigError, DataError
from rayllm.data.mixing.continuing import continue_plan
from rayllm.data.mixing.curriculum import build_plan
from rayllm.data.mixing.mixture import Mixture
from rayllm.data.mixing.plan import Plan
from rayllm.data.mixing.stages import CurriculumStage
from rayllm.data.mixing.weights import MixtureConfig

SMALL = {"a": 30_000, "b": 9_000}
STAGES = [
    {"frac": 0.5, "seq_len": 32, "global_batch_tokens": 512, "weights": {"a": 1, "b": 1}},
    {"frac": 0.5, "interpolate": "linear", "weights": {"a": 3, "b": 1}},
]


def small(stages=(), **changes) -> Plan:
    given = {"seq_len": 128, "global_batch_tokens": 1024, "max_steps": 100, "domain_tokens": SMALL} | changes
    return build_plan(
        mixture=MixtureConfig(weights=given.pop("weights", "natural")),
        curriculum=[CurriculumStage(**stage) for stage in stages],
        seed=1,
        **given,
    )


@settings(deadline=None)
@given(st.integers(0, 99), st.booleans())
def test_equal_settings_give_an_equal_table_wherever_the_run_goes_on(step, staged):
    whole = small(STAGES if staged else ())
    step = min(step, whole.total_steps - 1)
    assert continue_plan(whole, step, whole) == whole


def test_the_rows_of_the_run_before_are_cut_where_the_weights_differ():
    made = continue_plan(small(), 30, small(weights={"a": 1, "b": 3}, max_steps=50))
    assert [(row.steps, row.weights) for row in made.stages] == [(30, (788, 236)), (20, (256, 768))]


def test_a_longer_budget_goes_on_in_the_same_row():
    assert continue_plan(small(max_steps=40), 40, small(max_steps=100)) == small(max_steps=100)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(0, 1024), st.booleans())
def test_no_row_comes_twice_before_each_came_once(step, weight, reseeded):
    own = small(weights={"a": weight, "b": 1024 - weight})
    made = continue_plan(small(), step, dataclasses.replace(own, seed=1 + reseeded))
    if reseeded and step < 80:
        again = dataclasses.replace(own, seed=3)
        made = continue_plan(made, step + 10, again)
    drawn = [Mixture(made).draws(index, 0, row.steps * row.batch_rows) for index, row in enumerate(made.stages)]
    domains, numbers = (np.concatenate(part) for part in zip(*drawn, strict=True))
    for domain, blocks in enumerate(made.domain_blocks):
        read = numbers[domains == domain]
        for first in range(0, len(read), blocks):
            epoch = read[first : first + blocks]
            assert len(set(epoch.tolist())) == len(epoch)


def test_another_seed_gives_what_is_left_of_an_epoch_another_order():
    other = dataclasses.replace(small(), seed=2)
    made = continue_plan(small(), 20, other)
    assert [(row.steps, row.shuffle) for row in made.stages] == [(20, None), (80, 2)]
    assert continue_plan(made, 50, other) == made
    back = continue_plan(made, 50, small())
    assert [(row.steps, row.shuffle) for row in back.stages] == [(20, None), (30, 2), (50, 1)]
    (domains, numbers), (before, straight) = Mixture(made).draws(1, 0, 640), Mixture(small()).draws(0, 160, 640)
    left = made.domain_blocks[0] - Mixture(small()).domain_tokens(20)["a"] // 128
    shuffled, plain = numbers[domains == 0][:left], straight[before == 0][:left]
    assert set(shuffled) == set(plain)
    assert (shuffled != plain).mean() > 0.9


def test_what_would_repeat_rows_is_refused():
    with pytest.raises(ConfigError, match="rows of another kind"):
        continue_plan(small(), 30, dataclasses.replace(small(), packing="best_fit"))
    with pytest.raises(ConfigError, match="other blocks"):
        continue_plan(small(), 30, small(seq_len=256))
    with pytest.raises(ConfigError, match="other blocks"):  # the longest rows of the run before are never reached
        continue_plan(small([{"frac": 0.5}, {"frac": 0.5, "seq_len": 256}]), 10, small())
    with pytest.raises(DataError, match="other data"):
        continue_plan(small(), 30, small(domain_tokens={"a": 30_000, "b": 9_001}))


def test_a_budget_in_tokens_needs_batches_that_were_as_large():
    twice = small(global_batch_tokens=2048)
    with pytest.raises(ConfigError, match=r"30,720 tokens.*61,440"):
        continue_plan(small(), 30, twice, in_steps=False)
    assert continue_plan(small(), 30, twice).total_tokens == 30 * 1024 + 70 * 2048
