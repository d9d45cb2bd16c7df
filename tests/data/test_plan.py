import pytest

from rayllm.data.plan import Plan, StageRow

STAGES = (StageRow(200, 32, 16, (341, 683)), StageRow(100, 128, 8, (512, 512)))
PLAN = Plan(1, {"english": 100_001, "code": 10_001}, STAGES)


def test_at_names_the_stage_of_every_step():
    assert [PLAN.at(step)[0] for step in (0, 199, 200, 299)] == [0, 0, 1, 1]
    assert PLAN.at(205) == (1, STAGES[1], 5)
    for step in (-1, 300):
        with pytest.raises(ValueError, match="not in"):
            PLAN.at(step)


def test_tokens_before_a_step_add_up():
    sums = [0]
    for step in range(PLAN.total_steps):
        sums.append(sums[-1] + PLAN.at(step)[1].step_tokens)
    assert [PLAN.tokens_before(step) for step in range(PLAN.total_steps + 1)] == sums
    assert sums[-1] == PLAN.total_tokens == 204_800


def test_blocks_are_as_long_as_the_longest_row_and_keep_a_token_for_the_last_label():
    assert PLAN.block_tokens == 128
    assert PLAN.domain_blocks == (781, 78)
    assert Plan(1, {"a": 257, "b": 256, "c": 0}, STAGES[1:]).domain_blocks == (2, 1, 0)


def test_the_plan_survives_json_unchanged():
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_expected_tokens_and_epochs_follow_the_weights():
    assert PLAN.expected_tokens() == [{"english": 34_100, "code": 68_300}, {"english": 51_200, "code": 51_200}]
    assert PLAN.epochs() == {"english": 85_300 / (781 * 128), "code": 119_500 / (78 * 128)}


def test_a_domain_that_is_repeated_too_often_is_warned_of():
    (warning,) = PLAN.warnings()
    assert warning.startswith("domain code is read 12.0 times")
