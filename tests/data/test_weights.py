import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rayllm.core.errors import ConfigError, DataError
from rayllm.data.mixing.weights import PERIOD, MixtureConfig, domain_shares, quantize

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


def test_natural_weights_count_tokens_and_never_documents():
    """Twice the documents, each half as long: the same tokens, so the same share of the draws and of the tokens."""
    documents = {"long": [100] * 1000, "short": [50] * 2000, "few": [25_000] * 2}
    shares = domain_shares("natural", {name: sum(lengths) for name, lengths in documents.items()})
    assert shares == {"long": 0.4, "short": 0.4, "few": 0.2}
    assert quantize(list(shares.values())) == (410, 409, 205)


def test_a_temperature_flattens_shares_as_in_the_papers():
    # XLM-R's alpha is 1/temperature: 0.6, 0.3 and 0.1 to the power 0.3, normalised.
    powers = {"english": 0.6**0.3, "maths": 0.3**0.3, "code": 0.1**0.3}
    total = sum(powers.values())
    expected = {name: power / total for name, power in powers.items()}
    assert domain_shares("natural", SIZES, temperature=1 / 0.3) == pytest.approx(expected)
    assert domain_shares(SIZES, SIZES, temperature=1 / 0.3) == pytest.approx(expected)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=9).filter(any), st.floats(0.1, 1e6))
def test_a_temperature_keeps_the_order_of_domains_and_leaves_none_out(sizes, temperature):
    tokens = {f"d{i}": size for i, size in enumerate(sizes)}
    plain, tempered = domain_shares("natural", tokens), domain_shares("natural", tokens, temperature=temperature)
    assert sum(tempered.values()) == pytest.approx(1)
    assert all((tempered[name] > 0) == (plain[name] > 0) for name in tokens)
    order = sorted(tokens, key=lambda name: plain[name])
    assert all(tempered[a] <= tempered[b] * (1 + 1e-12) for a, b in itertools.pairwise(order))


def test_a_temperature_of_one_keeps_shares_and_an_endless_one_makes_them_uniform():
    assert domain_shares("natural", SIZES, temperature=1) == domain_shares("natural", SIZES)
    assert domain_shares("natural", SIZES, temperature=1e9) == pytest.approx(domain_shares("uniform", SIZES))


def test_shares_that_are_upper_bounds_are_rounded_down():
    assert quantize([0.5, 0.3, 0.2]) == (512, 307, 205)  # 307.2 and 204.8
    assert quantize([0.5, 0.3, 0.2], at_most=[2]) == (512, 308, 204)
    assert quantize([0.5, 0.3, 0.2], at_most=[0, 1, 2]) == (512, 307, 205)


def test_caps_are_one_number_or_a_number_for_each_domain_named():
    assert MixtureConfig().caps(["a", "b"]) == {"a": 4, "b": 4}
    assert MixtureConfig(max_epochs=None).caps(["a"]) == {"a": math.inf}
    assert MixtureConfig(max_epochs={"b": 0.5}).caps(["a", "b"]) == {"a": math.inf, "b": 0.5}


@pytest.mark.parametrize("changes", [{"temperature": 0}, {"max_epochs": 0}, {"max_epochs": {"a": -1}}, {"cap": "cut"}])
def test_caps_and_temperatures_that_mean_nothing_are_refused(changes):
    with pytest.raises(ValidationError):
        MixtureConfig(**changes)


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
