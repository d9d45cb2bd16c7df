import pytest

from rayllm.optim.config import ScheduleConfig
from rayllm.optim.schedules import SHAPES, lr_frac


def test_warmup_rises_linearly_to_the_peak() -> None:
    schedule = ScheduleConfig(warmup_frac=0.1)
    assert [lr_frac(schedule, step, 40) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_decay_begins_at_the_peak_and_ends_at_the_floor(kind: str) -> None:
    schedule = ScheduleConfig(kind=kind, warmup_frac=0.1, min_lr_frac=0.2)
    assert lr_frac(schedule, 10, 100) == 1.0
    assert lr_frac(schedule, 99, 100) == pytest.approx(0.2)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    schedule = ScheduleConfig(kind="cosine", warmup_frac=0.0, min_lr_frac=0.0)
    assert lr_frac(schedule, 50, 101) == pytest.approx(0.5)


def test_constant_stays() -> None:
    schedule = ScheduleConfig(kind="constant", warmup_frac=0.0)
    assert {lr_frac(schedule, step, 10) for step in range(10)} == {1.0}


def test_every_kind_has_a_shape() -> None:
    assert set(SHAPES) == set(ScheduleConfig.model_fields["kind"].annotation.__args__)
