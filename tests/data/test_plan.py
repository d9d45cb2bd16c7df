import dataclasses

import pytest

from rayllm.core.errors import ArtifactDamaged
from rayllm.data.mixing.plan import Plan, RowIndex, StageRow

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
    assert PLAN.epochs() == pytest.approx({"english": 85_300 / (781 * 128), "code": 119_500 / (78 * 128)})


def test_the_epochs_of_the_rows_of_the_table_add_up_to_those_of_the_run():
    rows = PLAN.epochs_by_row()
    assert rows[0]["code"] == pytest.approx(68_300 / (78 * 128))
    assert PLAN.epochs() == pytest.approx({name: rows[0][name] + rows[1][name] for name in PLAN.domains})


def test_a_domain_that_is_repeated_more_often_than_its_cap_is_warned_of():
    (warning,) = PLAN.warnings({"english": 4, "code": 4})
    assert warning.startswith("domain code is read 12.0 times, more than mixture.max_epochs, 4;")
    assert not PLAN.warnings({"english": 1, "code": 12})
    assert len(PLAN.warnings({"english": 0.5, "code": 11})) == 2


def test_a_table_of_an_older_run_without_stage_numbers_is_read():
    old = PLAN.to_json().replace(',\n   "stage": 0', "")
    assert '"stage"' not in old
    assert Plan.from_json(old) == PLAN


@pytest.mark.parametrize(
    ("there", "here", "named"),
    [('"steps"', '"updates"', "updates"), ('"domain_tokens"', '"tokens"', "lacks 'domain_tokens'"), ("{", "", "line")],
)
def test_a_table_of_another_version_is_refused_by_the_name_of_its_field(there, here, named):
    with pytest.raises(ArtifactDamaged, match=named):
        Plan.from_json(PLAN.to_json().replace(there, here))


def test_best_fit_rows_of_several_lengths_are_warned_of():
    caps = {"english": 100.0, "code": 100.0}
    indexes = tuple(RowIndex(length, (4000, 400), ("", "")) for length in (32, 128))
    (warning,) = dataclasses.replace(PLAN, packing="best_fit", indexes=indexes).warnings(caps)
    assert warning.startswith("best-fit rows of 32, 128 tokens have epochs of their own")
    assert not dataclasses.replace(PLAN, packing="best_fit", indexes=indexes[:1]).warnings(caps)


def test_units_of_best_fit_are_the_rows_of_each_length():
    indexes = (RowIndex(32, (4000, 400), ("", "")), RowIndex(128, (1000, 100), ("", "")))
    plan = dataclasses.replace(PLAN, packing="best_fit", indexes=indexes)
    assert [plan.units(stage) for stage in STAGES] == [(4000, 400), (1000, 100)]
    assert [PLAN.units(stage) for stage in STAGES] == [PLAN.domain_blocks] * 2
    first, second = (stage.tokens / (n * stage.seq_len) for stage, n in zip(STAGES, (4000, 1000), strict=True))
    assert plan.full_epochs()[0][0] == first
    assert plan.full_epochs()[1][0] == second
    assert Plan.from_json(plan.to_json()) == plan
