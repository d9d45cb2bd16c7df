import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.core.errors import ConfigError, DataError
from rayllm.data.mixing.curriculum import MAX_PIECES, build_plan, piece_steps
from rayllm.data.mixing.mixture import Mixture
from rayllm.data.mixing.plan import StageRow
from rayllm.data.mixing.stages import CurriculumStage
from rayllm.data.mixing.weights import PERIOD, MixtureConfig

SIZES = {"english": 600_001, "maths": 300_001, "code": 100_001}


def plan(stages=(), **changes):
    given = {"seq_len": 128, "global_batch_tokens": 1024, "max_steps": 100} | changes
    return build_plan(
        mixture=MixtureConfig(**{name: given.pop(name) for name in MixtureConfig.model_fields if name in given}),
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
        ([{"steps": 60}, {"steps": 60}], {}, "hold 120 steps, and the budget is 100: set `train.max_steps` to 120"),
        (
            [{"tokens": 60_000}],
            {"max_steps": None, "total_tokens": 90_000},
            "give one stage `frac: 1` to take the rest",
        ),
        ([{"steps": 100}, {"frac": 1}], {}, "stage 1 of the run gets no step: .* a length of their own take 100"),
        ([{"frac": 1, "interpolate": "linear"}], {}, "no stage before it"),
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


def test_a_temperature_belongs_to_the_weights_beside_it():
    own = {"english": 1, "maths": 2, "code": 1}
    stages = [{"frac": 0.25}, {"frac": 0.25, "temperature": 1}, {"frac": 0.25, "weights": own}]
    made = plan([*stages, {"frac": 0.25, "weights": own, "temperature": 1e9}], temperature=1e9)
    uniform, natural = (342, 341, 341), (614, 307, 103)
    assert [stage.weights for stage in made.stages[:3]] == [uniform, natural, (256, 512, 256)]
    assert max(made.stages[3].weights) == 342


ALONE = {"english": 1, "maths": 0, "code": 0}
NO_ENGLISH = {"english": 0, "maths": 1, "code": 1}


def moving(steps, batch_rows, **changes):
    """A plan whose second half moves from english alone to maths and code."""
    stages = [{"frac": 0.5, "weights": ALONE}, {"frac": 0.5, "weights": NO_ENGLISH, "interpolate": "linear"}]
    return plan(stages, max_steps=2 * steps, global_batch_tokens=128 * batch_rows, **changes)


def test_interpolated_weights_move_on_a_straight_line_from_the_stage_before():
    made = moving(6400, 16)
    first, *pieces = made.stages
    assert (first.stage, first.weights) == (0, (1024, 0, 0))
    assert {piece.stage for piece in pieces} == {1}
    assert len(pieces) == MAX_PIECES
    assert sum(piece.steps for piece in pieces) == 6400
    done = 0
    for piece in pieces:
        at = (done + piece.steps / 2) / 6400
        assert piece.weights[0] == pytest.approx((1 - at) * PERIOD, abs=1)
        assert piece.weights[1] == pytest.approx(at / 2 * PERIOD, abs=1)
        done += piece.steps
    total = made.expected_tokens()
    assert sum(row["english"] for row in total[1:]) == pytest.approx(sum(s.tokens for s in pieces) / 2, rel=0.01)


def test_a_first_stage_may_move_from_weights_of_its_own():
    stage = {"frac": 1, "weights": "uniform", "interpolate": "linear", "from_weights": ALONE}
    made = plan([stage], max_steps=8 * PERIOD)
    assert made.stages[0].weights[0] > 950
    assert made.stages[-1].weights[0] < 400


def test_a_stage_that_moves_to_the_weights_before_it_is_one_row():
    assert len(plan([{"frac": 0.5}, {"frac": 0.5, "interpolate": "linear"}], max_steps=10_000).stages) == 2


@given(st.integers(1, 3_000_000), st.integers(1, 5000), st.sampled_from([1, 2, 4, 16]))
def test_pieces_fill_their_stage_and_are_whole_periods_where_enough_fit(steps, batch_rows, rows_per_draw):
    pieces = piece_steps(steps, batch_rows, rows_per_draw)
    assert sum(pieces) == steps
    assert 1 <= len(pieces) <= MAX_PIECES
    assert min(pieces) >= 1
    rows = [piece * batch_rows for piece in pieces[:-1]]
    for unit in (PERIOD * rows_per_draw, PERIOD):
        if steps >= 8 * unit:  # so many steps are whole periods whatever the rows of a step
            assert all(count % unit == 0 for count in rows)
            break
    if steps * batch_rows >= 16 * PERIOD and steps >= 2 * MAX_PIECES:
        assert len(pieces) >= 8
    assert max(pieces[:-1], default=0) <= 2 * min(pieces[:-1], default=0)
    assert pieces[-1] < 3 * min(pieces)


@pytest.mark.parametrize(("steps", "batch_rows"), [(6400, 16), (1000, 64), (2000, 96), (513, 128)])
def test_rows_of_a_moving_stage_stay_within_one_of_the_table_up_to_any_point(steps, batch_rows):
    made = moving(steps, batch_rows, domain_tokens=dict.fromkeys(SIZES, 10**7))
    mixture, pieces = Mixture(made), made.stages[1:]
    assert len(pieces) >= 8
    drawn = np.concatenate(
        [mixture.draws(1 + i, 0, piece.steps * piece.batch_rows)[0] for i, piece in enumerate(pieces)]
    )
    wanted = np.concatenate(
        [np.tile(np.array(piece.weights) / PERIOD, (piece.steps * piece.batch_rows, 1)) for piece in pieces]
    )
    off = np.cumsum((drawn[:, None] == np.arange(3)) - wanted, axis=0)
    assert np.abs(off).max() < 1
    spread = off.max(axis=0) - off.min(axis=0)  # the worst of all windows, wherever they begin
    assert spread.max() < 2


def test_redistributed_caps_are_kept_and_the_others_share_what_is_left_by_their_weights():
    sizes = {"english": 10**7, "maths": 10**6, "code": 10**5}
    weights = {"english": 2, "maths": 1, "code": 1}
    changes = {"domain_tokens": sizes, "weights": weights, "max_steps": 4000}
    warned = plan(**changes, max_epochs=2)
    assert warned.stages[0].weights == (512, 256, 256)
    assert len(warned.warnings(dict.fromkeys(sizes, 2))) == 1
    made = plan(**changes, max_epochs=2, cap="redistribute")
    assert not made.warnings(dict.fromkeys(sizes, 2))
    assert 1.9 < made.epochs()["code"] <= 2
    english, maths, _ = made.stages[0].weights
    assert english == pytest.approx(2 * maths, abs=2)


def test_caps_hold_over_all_stages_together_and_may_differ_by_domain():
    stages = [{"frac": 0.5, "weights": {"english": 1, "maths": 1, "code": 2}}, {"frac": 0.5, "interpolate": "linear"}]
    sizes = {"english": 10**7, "maths": 10**6, "code": 10**6}
    caps = {"maths": 1.5, "code": 1}
    made = plan(stages, domain_tokens=sizes, weights="uniform", max_epochs=caps, cap="redistribute", max_steps=8000)
    epochs = made.epochs()
    assert 0.97 < epochs["code"] <= 1
    assert 1.45 < epochs["maths"] <= 1.5


def test_caps_that_cannot_be_kept_are_refused():
    with pytest.raises(ConfigError, match="more than its repetition caps allow") as caught:
        plan(max_steps=10_000, max_epochs=2, cap="redistribute")
    assert caught.value.where == "mixture.max_epochs"


def test_the_plans_of_runs_without_the_new_settings_are_what_they_were():
    stages = [{"frac": 0.8, "seq_len": 128, "global_batch_tokens": 2048}, {"frac": 0.2, "global_batch_tokens": 4096}]
    weights = {"english": 0.35, "maths": 0.5, "code": 0.15}
    made = plan(stages, seq_len=256, max_steps=None, total_tokens=3_000_000, weights=weights)
    assert [(s.steps, s.seq_len, s.batch_rows, s.weights) for s in made.stages] == [
        (1172, 128, 16, (358, 512, 154)),
        (146, 256, 16, (358, 512, 154)),
    ]
