import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.core.errors import ConfigError, DataError
from rayllm.data.curriculum import CurriculumStage, build_plan, stage_shapes
from rayllm.data.plan import StageRow
from rayllm.data.weights import MixtureConfig

SIZES = {"english": 600_001, "maths": 300_001, "code": 100_001}


def plan(stages=(), **changes):
    given = {"seq_len": 128, "global_batch_tokens": 1024, "max_steps": 100} | changes
    return build_plan(
        mixture=MixtureConfig(weights=given.pop("weights", "natural")),
        curriculum=[CurriculumStage(**stage) for stage in stages],
        domain_tokens=given.pop("domain_tokens", SIZES),
        seed=1,
        **given,
    )


def test_no_curriculum_is_one_stage():
    made = plan()
    assert made.stages == (StageRow(100, 128, 8, (614, 307, 103)),)
    assert (made.total_steps, made.total_tokens, made.block_tokens) == (100, 102_400, 128)


def test_stages_override_length_batch_and_weights():
    made = plan(
        [{"frac": 0.5, "seq_len": 32, "global_batch_tokens": 512, "weights": "uniform"}, {"frac": 0.5}], max_steps=300
    )
    short, long = made.stages
    assert (short.steps, short.seq_len, short.batch_rows, short.weights) == (200, 32, 16, (342, 341, 341))
    assert (long.steps, long.seq_len, long.batch_rows, long.weights) == (100, 128, 8, (614, 307, 103))
    assert short.tokens == long.tokens == 102_400


@given(
    st.lists(st.tuples(st.floats(0.2, 1), st.sampled_from([256, 512, 1024])), min_size=1, max_size=5),
    st.integers(60, 5000),
)
def test_a_budget_of_steps_is_kept_exactly_and_shares_to_a_step(stages, steps):
    total = sum(frac for frac, _ in stages)
    made = plan([{"frac": f / total, "global_batch_tokens": b} for f, b in stages], max_steps=steps)
    assert made.total_steps == steps
    for (frac, batch), stage in zip(stages, made.stages, strict=True):
        assert abs(stage.tokens - frac / total * made.total_tokens) <= batch + 1024


def test_a_budget_of_tokens_is_kept_to_a_step():
    assert plan(max_steps=None, total_tokens=102_400).total_tokens == 102_400
    assert plan(max_steps=None, total_tokens=102_900).total_tokens == 102_400
    assert plan(max_steps=None, total_tokens=103_000).total_tokens == 103_424


@pytest.mark.parametrize(
    ("stages", "changes", "words"),
    [
        ((), {"global_batch_tokens": 1000}, "set `global_batch_tokens` to 896 or 1,024"),
        ([{"frac": 0.5, "seq_len": 96}, {"frac": 0.5}], {"global_batch_tokens": 768}, "divisor such as 64"),
        ([{"frac": 0.5}, {"frac": 0.6}], {}, "sum to 1.1"),
        ([{"frac": 0.999}, {"frac": 0.001}], {"max_steps": 10}, "stage 1 of the run gets no step"),
        ((), {"max_steps": None}, "set either the steps or the tokens"),
        ((), {"total_tokens": 5}, "set either the steps or the tokens"),
        ([{"frac": 1, "weights": {"maths": 1}}], {}, "no weight is given for english, code"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_fix(stages, changes, words):
    with pytest.raises(ConfigError, match=words):
        plan(stages, **changes)


def test_a_weight_error_of_a_stage_names_the_stage():
    with pytest.raises(ConfigError) as caught:
        plan([{"frac": 0.5}, {"frac": 0.5, "weights": {"cod": 1, "english": 1, "maths": 1}}])
    assert caught.value.where == "curriculum.1.weights"
    assert "did you mean code" in str(caught.value)


def test_a_domain_below_one_block_is_refused_unless_it_is_not_drawn():
    sizes = {"english": 1000, "code": 128}
    with pytest.raises(DataError, match="use a seq_len below 128"):
        plan(domain_tokens=sizes)
    assert plan(domain_tokens=sizes, weights={"english": 1, "code": 0}).domain_blocks == (7, 0)
    assert plan(domain_tokens={"english": 1000, "code": 129}).domain_blocks == (7, 1)


def test_stage_shapes_can_be_checked_before_there_is_data():
    assert stage_shapes([], 64, 256) == [(64, 4)]
    with pytest.raises(ValueError, match="no whole number of rows"):
        stage_shapes([], 64, 100)
