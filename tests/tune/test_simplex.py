import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rayllm.core.errors import ConfigError
from rayllm.tune.simplex import Simplex, fit_within, stick_breaking

SHARES = {"web": 0.7, "code": 0.2, "maths": 0.1}
EVEN = {f"d{i}": 0.2 for i in range(5)}
GRAIN = 1 / 1024


def draws(simplex, count, shares=SHARES, seed=0):
    rng = np.random.default_rng(seed)
    return [simplex.at(rng.random(simplex.size(shares)).tolist(), shares) for _ in range(count)]


@st.composite
def limited(draw):
    """A simplex with room, the natural shares of its domains, and a point of its cube."""
    count = draw(st.integers(1, 7))
    names = [f"d{index}" for index in range(count)]
    parts = draw(st.lists(st.floats(1e-6, 1), min_size=count, max_size=count))
    inside = draw(st.lists(st.floats(0.01, 1), min_size=count, max_size=count))  # weights that the limits allow
    floors = [draw(st.floats(0, 1)) * part / sum(inside) for part in inside]
    caps = [part / sum(inside) + draw(st.floats(0, 1)) * (1 - part / sum(inside)) for part in inside]
    simplex = Simplex(
        around=draw(st.sampled_from(["natural", "uniform"])),
        concentration=draw(st.floats(0.05, 50)),
        floor=dict(zip(names, floors, strict=True)),
        cap=dict(zip(names, caps, strict=True)),
        pull=draw(st.floats(0, 0.9)),
    )
    size = max(count - 1, 1)
    point = draw(st.lists(st.floats(0, 1), min_size=size, max_size=size))
    return simplex, {name: part / sum(parts) for name, part in zip(names, parts, strict=True)}, point


@given(limited())
@example((Simplex(concentration=3.0, cap={f"d{i}": 0.2 for i in range(4)}), EVEN, [0.0, 0.0, 0.0, 8.5e-188]))
def test_weights_sum_to_one_between_floors_and_caps(given):
    simplex, shares, point = given
    weights = simplex.at(point, shares)
    floors, caps = simplex.limits(shares)
    assert list(weights) == list(shares)
    assert sum(weights.values()) == 1
    slack = len(shares) * GRAIN  # of rounding to the mixture's resolution
    assert all(
        low - slack <= weight <= high + slack for weight, low, high in zip(weights.values(), floors, caps, strict=True)
    )


@given(limited())
def test_weights_are_in_the_resolution_of_the_mixture(given):
    simplex, shares, point = given
    assert all((weight * 1024).is_integer() for weight in simplex.at(point, shares).values())


def test_draws_lie_around_the_natural_shares():
    found = draws(Simplex(concentration=2), 2000)
    for name, share in SHARES.items():
        assert abs(np.mean([one[name] for one in found]) - share) < 0.02


def test_draws_have_the_spread_of_the_dirichlet_distribution():
    found = draws(Simplex(around={"web": 2, "code": 1, "maths": 1}, concentration=2), 4000)
    total = 2 * 3
    for name, mean in {"web": 0.5, "code": 0.25, "maths": 0.25}.items():
        assert np.var([one[name] for one in found]) == pytest.approx(mean * (1 - mean) / (total + 1), rel=0.1)


def test_an_even_simplex_covers_its_triangle():
    found = draws(Simplex(around="uniform"), 300)
    for name in SHARES:
        assert abs(np.mean([one[name] for one in found]) - 1 / 3) < 0.05
        assert max(one[name] for one in found) > 0.85


def test_concentration_and_pull_bring_draws_nearer_to_the_natural_shares():
    def distance(simplex):
        return np.mean([sum(abs(one[name] - SHARES[name]) for name in SHARES) for one in draws(simplex, 300)])

    wide, near = distance(Simplex(around="uniform")), distance(Simplex(around="uniform", pull=0.5))
    assert near == pytest.approx(wide / 2, rel=0.1)
    assert distance(Simplex(concentration=20)) < distance(Simplex()) / 2


def test_a_floor_does_not_move_the_mean_where_it_is_below():
    found = draws(Simplex(floor=0.08), 2000)
    assert min(one["maths"] for one in found) >= 0.08 - GRAIN
    assert abs(np.mean([one["web"] for one in found]) - 0.7) < 0.02


def test_a_cap_of_one_domain_leaves_the_others_free():
    found = draws(Simplex(around="uniform", cap={"web": 0.2}), 300)
    assert max(one["web"] for one in found) <= 0.2 + GRAIN
    assert max(one["code"] for one in found) > 0.8


def test_the_point_is_the_dirichlet_quantile():
    assert stick_breaking([0.25], [1, 1], [0, 0], [1, 1]) == pytest.approx([0.25, 0.75])
    assert stick_breaking([0.5], [3, 3], [0.2, 0.0], [1, 1]) == pytest.approx([0.6, 0.4])
    assert stick_breaking([0.5], [1, 1], [0, 0], [0.4, 1]) == pytest.approx([0.2, 0.8])


def test_shares_are_held_within_limits_by_one_factor():
    assert fit_within([0.7, 0.2, 0.1], [0, 0, 0], [0.4, 1, 1]) == pytest.approx([0.4, 0.4, 0.2])
    assert fit_within([0.7, 0.2, 0.1], [0, 0, 0.3], [1, 1, 1]) == pytest.approx([0.7 * 7 / 9, 0.2 * 7 / 9, 0.3])
    assert fit_within([1.0, 0.0], [0, 0.5], [1, 1]) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("simplex", "words"),
    [
        (Simplex(floor=0.4), "floor of at most 0.333"),
        (Simplex(cap=0.3), "cap of at least 0.333"),
        (Simplex(floor={"web": 0.5}, cap={"web": 0.4}), "floor of web is above its cap"),
        (Simplex(cap={"cod": 0.4}), "did you mean code"),
        (Simplex(around={"web": 1}), "code, maths"),
    ],
)
def test_limits_that_no_weights_keep_are_refused(simplex, words):
    with pytest.raises(ConfigError, match=words):
        simplex.at([0.5, 0.5], SHARES)


def test_a_single_domain_gets_all():
    assert Simplex().at([0.3], {"web": 1.0}) == {"web": 1.0}
