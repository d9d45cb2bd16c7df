from rayllm.train.guards.continuity import BAND_STEPS, ENOUGH, describe_break

FALLING = [6.0 - 0.04 * step for step in range(BAND_STEPS)]


def test_a_loss_that_goes_on_falling_is_no_break() -> None:
    assert describe_break(FALLING, [4.0 - 0.04 * step for step in range(5)]) is None


def test_a_loss_far_from_those_before_is_told_with_both() -> None:
    said = describe_break([2.0, 3.0] * 25, [4.1, 4.0, 4.2, 1.0, 9.0])
    assert said is not None
    assert said.startswith("the first 5 losses after the resume are about 4.1000, outside the 2.0000 to 3.0000 of the ")
    assert describe_break([2.0, 3.0] * 25, [3.4] * 5) is None
    assert describe_break([2.0, 3.0] * 25, [1.4] * 5) is not None


def test_only_the_last_losses_make_the_band() -> None:
    assert describe_break([9.0] * 10 + [2.0, 3.0] * 25, [9.0] * 5) is not None
    assert describe_break([2.0, 2.0] * 25, [2.015] * 5) is None  # noise where the loss hardly moves


def test_nothing_is_said_of_a_new_run_or_of_few_losses() -> None:
    assert describe_break([], [6.0] * 5) is None
    assert describe_break(FALLING[: ENOUGH - 1], [99.0] * 5) is None
    assert describe_break(FALLING, []) is None
