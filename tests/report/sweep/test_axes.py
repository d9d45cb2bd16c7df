import pytest
from simulated_sweep import trial

from rayllm.report.sweep.axes import axes_of, flat, mixture_of


def axes(*settings):
    return {axis.path: axis for axis in axes_of([trial(n, one, 1.0) for n, one in enumerate(settings)])}


def test_only_what_varies_is_an_axis_and_the_seed_is_none():
    assert list(axes({"lr": 1.0, "depth": 3, "seed": 1}, {"lr": 2.0, "depth": 3, "seed": 2})) == ["lr"]


def test_more_than_a_decade_is_logarithmic():
    axis = axes({"lr": 0.001}, {"lr": 0.01}, {"lr": 0.1})["lr"]
    assert axis.place({"lr": 0.01}) == pytest.approx(0.5)
    assert axes({"lr": 1.0}, {"lr": 2.0}, {"lr": 3.0})["lr"].place({"lr": 2.0}) == pytest.approx(0.5)


def test_what_is_no_number_has_a_place_for_each_value():
    axis = axes({"kind": "a"}, {"kind": "c"}, {"kind": "b"}, {"on": True}, {"on": False})["kind"]
    assert axis.ticks() == [(0.0, "a"), (0.5, "b"), (1.0, "c")]
    assert axis.place({"on": True}) is None


def test_a_mixture_is_an_axis_a_domain():
    settings = {"mixture.weights": {"code": 0.25, "math": 0.75}}
    assert flat(settings) == {"mixture.weights.code": 0.25, "mixture.weights.math": 0.75}
    assert axes(settings, {"mixture.weights": {"code": 0.5, "math": 0.5}})["mixture.weights.code"].label == "code"
    assert mixture_of(settings) == {"code": 0.25, "math": 0.75}
    assert mixture_of({"lr": 1.0, "targets": {"a": "b"}}) is None
