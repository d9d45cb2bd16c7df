import math
import random
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rayllm.optim.config import (
    AdamWConfig,
    ConstantSchedule,
    CosineSchedule,
    InverseSqrtSchedule,
    LinearSchedule,
    MuonConfig,
    ScheduleConfig,
    WSDSchedule,
)
from rayllm.optim.schedules import AFTER_WARMUP, SHAPES, Rates, Schedule, lr_frac, momentum_at, rates_at

EVERY = [ConstantSchedule, CosineSchedule, LinearSchedule, InverseSqrtSchedule, WSDSchedule]


@pytest.mark.parametrize("kind", EVERY)
def test_warmup_rises_linearly_to_the_peak(kind: type[ConstantSchedule]) -> None:
    schedule = kind(warmup_frac=0.1)
    assert [lr_frac(schedule, step, 40) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("kind", [CosineSchedule, LinearSchedule, WSDSchedule])
def test_decay_begins_at_the_peak_and_ends_at_the_floor(kind: type[CosineSchedule]) -> None:
    schedule = kind(warmup_frac=0.1, min_lr_frac=0.2)
    assert lr_frac(schedule, 10, 100) == 1.0
    assert lr_frac(schedule, 99, 100) == pytest.approx(0.2)


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("total", [1, 2, 7, 1000])
def test_runs_of_any_length_stay_between_zero_and_the_peak(kind: type[ConstantSchedule], total: int) -> None:
    for warmup_frac in (0.0, 0.3, 0.8):
        schedule = kind(warmup_frac=warmup_frac)
        values = [lr_frac(schedule, step, total) for step in range(total)]
        assert all(0 < value <= 1 for value in values)


def test_cosine_by_hand() -> None:
    schedule = CosineSchedule(warmup_frac=0.0, min_lr_frac=0.0)
    assert lr_frac(schedule, 50, 101) == pytest.approx(0.5)
    assert lr_frac(schedule, 25, 101) == pytest.approx(0.5 + 0.5 * math.sqrt(0.5))


def test_linear_by_hand() -> None:
    schedule = LinearSchedule(warmup_frac=0.0, min_lr_frac=0.5)
    assert [lr_frac(schedule, step, 5) for step in range(5)] == [1.0, 0.875, 0.75, 0.625, 0.5]


def test_constant_stays() -> None:
    schedule = ConstantSchedule(warmup_frac=0.0)
    assert {lr_frac(schedule, step, 10) for step in range(10)} == {1.0}


def test_inverse_sqrt_by_hand() -> None:
    schedule = InverseSqrtSchedule(warmup_frac=0.04, min_lr_frac=0.25)  # 4 steps of 100
    assert lr_frac(schedule, 3, 100) == 1.0
    assert lr_frac(schedule, 15, 100) == 0.5  # sqrt(4 / 16)
    assert lr_frac(schedule, 35, 100) == pytest.approx(1 / 3)
    assert lr_frac(schedule, 99, 100) == 0.25  # sqrt(4 / 100) is below the floor


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.5), ("sqrt", 1 - math.sqrt(0.5)), ("cosine", 0.5)])
def test_wsd_by_hand(shape: str, middle: float) -> None:
    schedule = WSDSchedule.model_validate(
        {"warmup_frac": 0.1, "decay_frac": 0.21, "decay_shape": shape, "min_lr_frac": 0.0}
    )
    assert {lr_frac(schedule, step, 100) for step in range(9, 80)} == {1.0}
    assert lr_frac(schedule, 89, 100) == pytest.approx(middle)  # 10 of the 20 steps from 79 to 99
    assert lr_frac(schedule, 99, 100) == pytest.approx(0.0)


def test_a_decay_of_one_step_ends_at_the_floor() -> None:
    schedule = WSDSchedule(warmup_frac=0.0, decay_frac=0.1, min_lr_frac=0.25)
    assert [lr_frac(schedule, step, 10) for step in range(10)] == [1.0] * 9 + [0.25]
    assert lr_frac(schedule, 0, 1) == 1.0  # nothing of so short a run decays


def test_the_stable_part_of_wsd_does_not_depend_on_the_length_of_the_run() -> None:
    short = [lr_frac(WSDSchedule(warmup_frac=0.02, decay_frac=0.5), step, 100) for step in range(50)]
    long = [lr_frac(WSDSchedule(warmup_frac=0.01, decay_frac=0.1), step, 200) for step in range(50)]
    assert short == long


def test_parts_of_wsd_must_fit_into_the_run() -> None:
    with pytest.raises(ValidationError, match=r"set decay_frac to 0\.5 or less"):
        WSDSchedule(warmup_frac=0.5, decay_frac=0.6)


def test_every_kind_is_built_and_every_shape_exists() -> None:
    adapter: TypeAdapter[Schedule] = TypeAdapter(ScheduleConfig)
    kinds = {
        type(adapter.validate_python({"kind": name}))
        for name in ("constant", "cosine", "linear", "inverse_sqrt", "wsd")
    }
    assert kinds == set(AFTER_WARMUP) == set(EVERY)
    assert set(get_args(WSDSchedule.model_fields["decay_shape"].annotation)) == set(SHAPES)


def test_momentum_warms_up_in_a_line() -> None:
    config = MuonConfig(momentum_start=0.85, momentum=0.95, momentum_warmup_steps=300)
    assert momentum_at(config, 0) == 0.85
    assert momentum_at(config, 150) == pytest.approx(0.9)
    assert momentum_at(config, 300) == momentum_at(config, 10_000) == 0.95
    assert momentum_at(MuonConfig(momentum_warmup_steps=0), 0) == 0.95


def test_rates_hold_what_depends_on_the_step() -> None:
    schedule = LinearSchedule(warmup_frac=0.0, min_lr_frac=0.0)
    assert rates_at(AdamWConfig(lr=0.1), schedule, 0, 11) == Rates(lr=0.1)
    rates = rates_at(MuonConfig(lr=0.1, momentum_warmup_steps=0), schedule, 5, 11)
    assert rates.lr == pytest.approx(0.05)
    assert rates.momentum == 0.95


SETTINGS = st.sampled_from(EVERY).flatmap(
    lambda kind: st.builds(kind, warmup_frac=st.sampled_from([0.0, 0.05, 0.3])).map(lambda schedule: (kind, schedule))
)


@settings(max_examples=60, deadline=None)
@given(chosen=SETTINGS, total=st.integers(1, 200), order=st.randoms(use_true_random=False), muon=st.booleans())
def test_rates_are_a_pure_function_of_the_step(
    chosen: tuple[type, Schedule], total: int, order: random.Random, muon: bool
) -> None:
    kind, schedule = chosen
    optimizer = MuonConfig(momentum_warmup_steps=7) if muon else AdamWConfig()
    straight = [rates_at(optimizer, schedule, step, total) for step in range(total)]
    # Asked again, in any order, from a config that was written out and read back: what a resumed run does.
    steps = order.sample(range(total), total)
    again = kind.model_validate(schedule.model_dump())
    assert [rates_at(optimizer, again, step, total) for step in steps] == [straight[step] for step in steps]


@pytest.mark.parametrize("kind", [CosineSchedule, LinearSchedule, InverseSqrtSchedule, WSDSchedule])
def test_after_the_warmup_the_rate_never_rises(kind: type[CosineSchedule]) -> None:
    values = [lr_frac(kind(warmup_frac=0.1), step, 200) for step in range(20, 200)]
    assert values == sorted(values, reverse=True)
