import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rayllm.core.errors import ConfigError
from rayllm.tune.space import Choice, Dimension, Grid, Integer, LogUniform, Simplex, Uniform, propose

DOMAINS = ["english", "maths", "code"]


def test_every_kind_draws_from_its_own_set():
    space = {
        "a": Choice(values=["x", "y"]),
        "b": Uniform(low=-1, high=2),
        "c": LogUniform(low=1e-5, high=1e-1),
        "d": Integer(low=3, high=5),
    }
    drawn = propose(space, 200, 0, DOMAINS)
    assert {one["a"] for one in drawn} == {"x", "y"}
    assert all(-1 <= one["b"] <= 2 for one in drawn)
    assert {one["d"] for one in drawn} == {3, 4, 5}
    assert all(1e-5 <= one["c"] <= 1e-1 for one in drawn)
    low = sum(one["c"] < 1e-3 for one in drawn)
    assert 70 < low < 130  # half of the decades lie below 1e-3


def test_grids_are_crossed_with_every_sample():
    space = {"g": Grid(values=[1, 2]), "u": Uniform(low=0, high=1), "h": Grid(values=["p", "q", "r"])}
    drawn = propose(space, 2, 0, DOMAINS)
    assert len(drawn) == 12
    assert len({one["u"] for one in drawn}) == 2
    assert [(one["g"], one["h"]) for one in drawn[:3]] == [(1, "p"), (1, "q"), (1, "r")]


def test_more_samples_or_settings_leave_the_earlier_draws_as_they_were():
    space = {"u": Uniform(low=0, high=1), "w": Simplex()}
    few = propose(space, 3, 5, DOMAINS)
    assert propose({"new": Integer(low=1, high=9), **space}, 6, 5, DOMAINS)[2]["w"] == few[2]["w"]
    assert propose(space, 6, 5, DOMAINS)[:3] == few
    assert propose(space, 3, 6, DOMAINS) != few


@given(st.integers(1, 6), st.floats(0.3, 5), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_simplex_draws_sum_to_one_between_floor_and_cap(count, concentration, low, high, seed):
    floor, cap = low / count * 0.8, 1 / count + (1 - 1 / count) * max(high, 0.5)
    simplex = Simplex(concentration=concentration, floor=floor, cap=min(cap, 1.0))
    names = [f"d{i}" for i in range(count)]
    (one,) = propose({"mixture.weights": simplex}, 1, seed, names)
    weights = one["mixture.weights"]
    assert list(weights) == names
    assert sum(weights.values()) == 1
    assert all(floor - count / 1024 <= weight <= min(cap, 1.0) + count / 1024 for weight in weights.values())


def test_simplex_covers_its_triangle():
    drawn = [one["w"] for one in propose({"w": Simplex()}, 300, 0, DOMAINS)]
    for name in DOMAINS:
        assert abs(sum(one[name] for one in drawn) / 300 - 1 / 3) < 0.05
        assert max(one[name] for one in drawn) > 0.85


def test_a_simplex_without_room_is_refused_with_its_limits():
    with pytest.raises(ConfigError, match=r"floor of at most 0\.333"):
        propose({"w": Simplex(floor=0.4)}, 1, 0, DOMAINS)
    with pytest.raises(ConfigError, match=r"cap of at least 0\.333"):
        propose({"w": Simplex(cap=0.3)}, 1, 0, DOMAINS)
    with pytest.raises(ConfigError, match="raise the cap"):
        propose({"w": Simplex(concentration=0.01, cap=0.34)}, 1, 0, DOMAINS)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "uniform", "low": 2, "high": 1},
        {"kind": "loguniform", "low": 0, "high": 1},
        {"kind": "int", "low": 2, "high": 1},
        {"kind": "choice", "values": []},
        {"kind": "normal", "mean": 0},
        {"kind": "simplex", "floors": 0.1},
    ],
)
def test_ranges_that_hold_nothing_are_refused(given):
    with pytest.raises(ValidationError):
        TypeAdapter(Dimension).validate_python(given)
