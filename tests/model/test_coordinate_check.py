"""Activations keep their scale as the model widens, before training and while it goes on: init and rates hold."""

import depth
import pytest

WIDTHS = [64, 128, 256]
STEPS = 4


@pytest.fixture(scope="module")
def checked() -> dict[int, list[dict[str, float]]]:
    return depth.coordinate_check(WIDTHS, STEPS)


@pytest.mark.parametrize("kind", ["residual stream", "attention", "feed-forward"])
@pytest.mark.parametrize("when", [0, 1], ids=["new", "trained"])
def test_activations_stay_flat_from_width_to_width(checked: dict, kind: str, when: int) -> None:
    values = [checked[width][when][kind] for width in WIDTHS]
    assert max(values) / min(values) < 1.25, values


def test_logits_begin_small_and_then_move_alike(checked: dict) -> None:
    new, trained = ([checked[width][when]["logits"] for width in WIDTHS] for when in (0, 1))
    assert new == sorted(new, reverse=True)
    assert max(new) < 0.2
    assert max(trained) / min(trained) < 1.5, trained


def test_the_check_finds_an_initial_scale_that_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    derived = depth.derived

    def unscaled(*arguments: int, **sizes: int):
        model, optimizer = derived(*arguments, **sizes)
        return model.model_copy(update={"init_scale": "normal"}), optimizer

    monkeypatch.setattr(depth, "derived", unscaled)
    found = depth.coordinate_check([64, 256], 1)
    assert found[256][0]["feed-forward"] / found[64][0]["feed-forward"] > 2
