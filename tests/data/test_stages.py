import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rayllm.data.mixing.stages import CurriculumStage, check_stages, stage_shapes, stage_steps


def steps_of(stages, step_tokens, **budget):
    return stage_steps([CurriculumStage(**stage) for stage in stages], step_tokens, **budget)


def test_a_run_without_a_curriculum_has_one_stage():
    assert stage_shapes([], 64, 256) == [(64, 4)]
    assert stage_steps([], [256], max_steps=7) == [7]
    assert stage_steps([], [256], total_tokens=1000) == [4]


def test_a_batch_that_is_no_whole_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="no whole number of rows"):
        stage_shapes([], 64, 100)


@pytest.mark.parametrize("stage", [{}, {"frac": 0.5, "steps": 3}, {"steps": 3, "tokens": 5}])
def test_a_stage_says_its_length_exactly_once(stage):
    with pytest.raises(ValidationError, match="exactly one of `frac`, `steps` and `tokens`"):
        CurriculumStage(**stage)


def test_weights_to_begin_with_are_refused_where_nothing_moves():
    with pytest.raises(ValidationError, match="interpolate: linear"):
        CurriculumStage(frac=1, from_weights="uniform")


def test_stages_of_a_length_of_their_own_come_first_and_shares_are_of_the_rest():
    stages = [{"steps": 100}, {"frac": 0.75}, {"tokens": 5000}, {"frac": 0.25}]
    assert steps_of(stages, [10, 10, 10, 10], max_steps=1000) == [100, 300, 500, 100]
    assert steps_of(stages, [10, 10, 50, 30], total_tokens=10_000) == [100, 300, 100, 33]


def test_stages_that_all_have_a_length_fill_the_budget():
    assert steps_of([{"steps": 60}, {"tokens": 400}], [10, 10], max_steps=100) == [60, 40]
    assert steps_of([{"steps": 60}, {"tokens": 404}], [10, 10], total_tokens=1004) == [60, 40]
    assert steps_of([{"tokens": 1_000_000}, {"tokens": 500_000}], [4096, 4096], total_tokens=1_500_000) == [244, 122]
    with pytest.raises(ValueError, match=r"hold 1,000 tokens, and the budget is 1,100: set `train.tokens` to 1,000"):
        steps_of([{"steps": 60}, {"tokens": 400}], [10, 10], total_tokens=1100)


def test_a_stage_that_gets_no_step_is_named():
    with pytest.raises(ValueError, match="stage 1 of the run gets no step"):
        steps_of([{"frac": 1}, {"tokens": 4}], [10, 10], max_steps=50)
    with pytest.raises(ValueError, match="stage 0 of the run gets no step: the budget is 3 tokens"):
        stage_steps([], [10], total_tokens=3)


@given(
    st.lists(st.tuples(st.sampled_from(["frac", "steps"]), st.integers(1, 50)), min_size=1, max_size=6),
    st.integers(400, 10_000),
)
def test_the_steps_of_all_stages_are_the_budget(kinds, budget):
    parts = [{kind: amount} for kind, amount in kinds]
    total = sum(part.get("frac", 0) for part in parts)
    stages = [{"frac": part["frac"] / total} if "frac" in part else part for part in parts]
    if not total:
        budget = sum(part["steps"] for part in parts)
    made = steps_of(stages, [16] * len(stages), max_steps=budget)
    assert sum(made) == budget
    assert all(count == part["steps"] for part, count in zip(parts, made, strict=True) if "steps" in part)


def test_stages_that_cannot_follow_each_other_are_refused():
    with pytest.raises(ValueError, match=r"sum to 0.9"):
        check_stages([CurriculumStage(frac=0.4), CurriculumStage(steps=3), CurriculumStage(frac=0.5)])
    with pytest.raises(ValueError, match="`from_weights`, or put a stage first"):
        check_stages([CurriculumStage(frac=1, interpolate="linear")])
