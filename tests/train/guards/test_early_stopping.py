import math

import pytest
from pydantic import ValidationError

from rayllm.core.errors import ConfigError
from rayllm.train.guards.config import EarlyStoppingConfig
from rayllm.train.guards.early_stopping import Patience


def stops(values: list[float], **settings: object) -> list[bool]:
    config = EarlyStoppingConfig.model_validate({"metric": "loss/web", **settings})
    patience = Patience()
    return [patience.exhausted(config, {"loss/web": value}) for value in values]


def test_it_stops_after_so_many_validations_without_a_better_value() -> None:
    assert stops([3, 2, 2.5, 1.9, 1.95, 1.9, 2.0], patience=3) == [False] * 6 + [True]


def test_a_value_must_be_lower_by_the_delta() -> None:
    assert stops([3, 2.95, 2.92], patience=2, min_delta=0.1) == [False, False, True]
    assert stops([3, 2.85, 2.7], patience=2, min_delta=0.1) == [False, False, False]


def test_where_higher_is_better_it_stops_once_nothing_rises() -> None:
    assert stops([1, 2, 3, 4, 5], patience=2, mode="max") == [False] * 5
    assert stops([1, 2, 2, 1], patience=2, mode="max") == [False, False, False, True]
    assert stops([1, 1.05, 1.08], patience=2, mode="max", min_delta=0.1) == [False, False, True]


@pytest.mark.parametrize("metric", ["mean_accuracy", "mean_margin", "likelier/web"])
def test_a_metric_that_should_rise_is_refused_where_lower_would_be_better(metric: str) -> None:
    with pytest.raises(ValidationError, match=f"of `{metric}` higher is better.*set `mode: max`"):
        EarlyStoppingConfig(metric=metric)
    assert EarlyStoppingConfig(metric=metric, mode="max").mode == "max"


def test_what_is_not_finite_is_never_better() -> None:
    assert stops([math.nan, math.nan], patience=2) == [False, True]


def test_a_metric_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"loss/web.*is not among.*loss/code"):
        Patience().exhausted(EarlyStoppingConfig(metric="loss/web"), {"loss/code": 1.0})
