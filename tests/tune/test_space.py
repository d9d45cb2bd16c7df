import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from rayllm.tune.dimensions import Choice, Grid, Integer, LogUniform, Uniform
from rayllm.tune.simplex import Simplex
from rayllm.tune.space import Dimension, Space, check_conditions, combinations

SHARES = {"english": 0.6, "maths": 0.3, "code": 0.1}
#: The momentum exists only for one of the optimisers, its schedule only for some momenta.
NESTED = {
    "late": Uniform(low=0, high=1, when={"optimizer": ["muon"], "momentum": [2, 3]}),
    "optimizer": Choice(values=["adamw", "muon"]),
    "momentum": Integer(low=1, high=3, when={"optimizer": ["muon"]}),
}


def samples(dimensions, count, seed=0):
    space = Space(dimensions, SHARES)
    return [one for number in range(count) for one in space.sample(number, seed)]


def test_every_kind_draws_from_its_own_set():
    drawn = samples(
        {
            "a": Choice(values=["x", "y"]),
            "b": Uniform(low=-1, high=2),
            "c": LogUniform(low=1e-5, high=1e-1),
            "d": Integer(low=3, high=5),
        },
        200,
    )
    assert {one["a"] for one in drawn} == {"x", "y"}
    assert all(-1 <= one["b"] <= 2 for one in drawn)
    assert {one["d"] for one in drawn} == {3, 4, 5}
    assert all(1e-5 <= one["c"] <= 1e-1 for one in drawn)
    assert 70 < sum(one["c"] < 1e-3 for one in drawn) < 130  # half of the decades lie below 1e-3


@given(st.floats(0, 1))
def test_the_ends_of_every_kind_are_its_own(at):
    assert 1e-5 <= LogUniform(low=1e-5, high=1e-1).at([at], SHARES) <= 1e-1
    assert Uniform(low=0.1, high=0.3).at([at], SHARES) in (pytest.approx(0.1 + 0.2 * at, abs=1e-6),)
    assert Integer(low=-2, high=2).at([at], SHARES) in range(-2, 3)
    assert Choice(values=["a", "b", "c"]).at([at], SHARES) in ("a", "b", "c")


def test_grids_are_crossed_with_every_sample():
    drawn = samples({"g": Grid(values=[1, 2]), "u": Uniform(low=0, high=1), "h": Grid(values=["p", "q", "r"])}, 2)
    assert len(drawn) == 12
    assert len({one["u"] for one in drawn}) == 2
    assert [(one["g"], one["h"]) for one in drawn[:3]] == [(1, "p"), (1, "q"), (1, "r")]


def test_more_samples_or_settings_leave_the_earlier_draws_as_they_were():
    space = {"u": Uniform(low=0, high=1), "w": Simplex(), "curriculum.0.weights": Simplex()}
    few = samples(space, 3, seed=5)
    assert samples({"new": Integer(low=1, high=9), **space}, 6, seed=5)[2]["w"] == few[2]["w"]
    assert samples(space, 6, seed=5)[:3] == few
    assert samples(space, 3, seed=6) != few
    assert few[0]["w"] != few[0]["curriculum.0.weights"]  # each has its own draws


def test_a_setting_exists_only_where_all_its_conditions_hold():
    drawn = samples(NESTED, 200)
    assert all(("momentum" in one) == (one["optimizer"] == "muon") for one in drawn)
    assert all(("late" in one) == (one.get("momentum") in (2, 3)) for one in drawn)
    assert any("late" in one for one in drawn)
    assert all(list(one) == [path for path in NESTED if path in one] for one in drawn)


def test_grids_that_do_not_exist_are_not_crossed():
    space = {"kind": Grid(values=["a", "b"]), "only_b": Grid(values=[1, 2, 3], when={"kind": ["b"]})}
    assert samples(space, 1) == [{"kind": "a"}, *({"kind": "b", "only_b": value} for value in (1, 2, 3))]


def test_combinations_list_choices_and_whole_numbers_with_their_conditions():
    del (lists := dict(NESTED))["late"]
    assert combinations(Space(lists, SHARES)) == [
        {"optimizer": "adamw"},
        *({"optimizer": "muon", "momentum": value} for value in (1, 2, 3)),
    ]
    with pytest.raises(ValueError, match="`u` is uniform"):
        combinations(Space({"u": Uniform(low=0, high=1)}, SHARES))


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ({"d": ["x"]}, "depends on `d`, which is not in the space"),
        ({"a": ["z"]}, r"depends on `a` being \['z'\], which it never is"),
        ({"a": []}, "being one of no values"),
        ({"n": [9]}, r"\[9\], which it never is"),
        ({"u": [0.5]}, "`u`, which is uniform"),
        ({"c": [1]}, "`b`, `c` depend on each other"),
    ],
)
def test_conditions_that_cannot_hold_are_refused(when, words):
    space = {
        "a": Choice(values=["x", "y"]),
        "n": Integer(low=1, high=3),
        "u": Uniform(low=0, high=1),
        "b": Choice(values=[1], when=when),
        "c": Choice(values=[1], when={"b": [1]}),
    }
    with pytest.raises(ValueError, match=words):
        check_conditions(space)


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "uniform", "low": 2, "high": 1},
        {"kind": "loguniform", "low": 0, "high": 1},
        {"kind": "int", "low": 2, "high": 1},
        {"kind": "choice", "values": []},
        {"kind": "normal", "mean": 0},
        {"kind": "simplex", "floors": 0.1},
        {"kind": "simplex", "pull": 1},
    ],
)
def test_ranges_that_hold_nothing_are_refused(given):
    with pytest.raises(ValidationError):
        TypeAdapter(Dimension).validate_python(given)
