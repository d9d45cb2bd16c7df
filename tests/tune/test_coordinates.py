import numpy as np
import pytest
from planted import SHARES

from rayllm.tune.coordinates import coordinates_of
from rayllm.tune.dimensions import Integer, LogUniform, Uniform
from rayllm.tune.simplex import Simplex

DIMENSIONS = [
    Uniform(low=-1, high=3),
    LogUniform(low=1e-5, high=1e-1),
    Integer(low=2, high=40),
    Simplex(around="uniform"),
    Simplex(around="natural", floor=0.05, cap=0.7, concentration=3.0, pull=0.3),
]


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=lambda one: one.kind)
def test_a_value_leads_back_to_coordinates_that_have_it(dimension):
    rng = np.random.default_rng(0)
    for _ in range(20):
        value = dimension.at(rng.random(dimension.size(SHARES)).tolist(), SHARES)
        found = coordinates_of(dimension, value, SHARES)
        assert found is not None
        again = dimension.at(found, SHARES)
        if isinstance(value, dict):
            assert again == pytest.approx(value, abs=2 / 1024)
        else:
            assert again == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("dimension", "value"),
    [
        (Uniform(low=0, high=1), 2.0),
        (Uniform(low=0, high=1), None),
        (Uniform(low=0, high=1), "natural"),
        (LogUniform(low=1e-5, high=1e-1), True),
        (Simplex(around="uniform", cap=0.5), {"web": 0.9, "code": 0.1}),
        (Simplex(around="uniform"), {"elsewhere": 1.0}),
        (Simplex(around="uniform"), 0.5),
    ],
)
def test_what_a_dimension_never_is_has_no_coordinates(dimension, value):
    assert coordinates_of(dimension, value, SHARES) is None


@pytest.mark.parametrize("name", ["natural", "uniform"])
def test_mixtures_by_name_have_coordinates(name):
    point = coordinates_of(Simplex(around="uniform"), name, SHARES)
    wanted = SHARES if name == "natural" else dict.fromkeys(SHARES, 1 / 3)
    assert Simplex(around="uniform").at(point, SHARES) == pytest.approx(wanted, abs=2 / 1024)
