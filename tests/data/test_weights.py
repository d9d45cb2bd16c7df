import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rayllm.core.errors import ConfigError, DataError
from rayllm.data.weights import PERIOD, MixtureConfig, domain_shares, quantize

SIZES = {"english": 600, "maths": 300, "code": 100}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40).filter(lambda x: sum(x) > 1e-3))
def test_quantised_weights_sum_to_a_period_and_keep_every_domain(amounts):
    shares = [amount / sum(amounts) for amount in amounts]
    draws = quantize(shares)
    assert sum(draws) == PERIOD
    assert all((draw > 0) == (share > 0) for draw, share in zip(draws, shares, strict=True))
    tiny = sum(0 < share * PERIOD < 1 for share in shares)
    assert all(abs(d - s * PERIOD) < 1 + tiny for d, s in zip(draws, shares, strict=True))


def test_the_largest_remainders_are_rounded_up():
    assert quantize([0.5, 0.3, 0.2]) == (512, 307, 205)  # 307.2 and 204.8


def test_a_tiny_weight_is_kept_at_the_expense_of_the_largest_excess():
    assert quantize([1 - 1e-9, 1e-9]) == (1023, 1)


def test_more_domains_than_draws_are_refused():
    assert quantize([1 / 1024] * 1024) == (1,) * 1024
    with pytest.raises(ConfigError, match=r"1,024 domains"):
        quantize([1 / 1025] * 1025)


def test_natural_weights_follow_the_sizes_and_uniform_ones_do_not():
    assert domain_shares("natural", SIZES) == {"english": 0.6, "maths": 0.3, "code": 0.1}
    assert set(domain_shares("uniform", SIZES).values()) == {1 / 3}


def test_given_weights_are_normalised_in_the_order_of_the_domains():
    shares = domain_shares({"code": 1, "maths": 0, "english": 3}, SIZES)
    assert list(shares.items()) == [("english", 0.75), ("maths", 0.0), ("code", 0.25)]


def test_an_unknown_domain_is_answered_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean maths") as caught:
        domain_shares({"math": 1, "english": 1, "code": 1}, SIZES)
    assert caught.value.where == "mixture.weights"


def test_a_domain_without_weight_is_named():
    with pytest.raises(ConfigError, match="no weight is given for code"):
        domain_shares({"english": 1, "maths": 1}, SIZES)


def test_empty_data_is_named():
    with pytest.raises(DataError, match="no tokens to train on"):
        domain_shares("natural", {"english": 0})


@pytest.mark.parametrize("weights", [{"a": 0.0}, {}, {"a": -1.0}, {"a": float("nan")}, "neutral"])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ValidationError):
        MixtureConfig(weights=weights)
