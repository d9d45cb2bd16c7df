import numpy as np

from rayllm.tune.dimensions import Choice, Integer, LogUniform, Uniform
from rayllm.tune.explore import explore, moved
from rayllm.tune.schedulers import PbtScheduler
from rayllm.tune.simplex import Simplex
from rayllm.tune.space import Space

SHARES = {"web": 0.7, "code": 0.2, "maths": 0.1}
NEVER, ALWAYS = PbtScheduler(resample=0), PbtScheduler(resample=1)


def moves(dimension, value, count=40):
    return [moved(dimension, value, SHARES, np.random.default_rng(seed)) for seed in range(count)]


def test_numbers_move_by_a_fifth_within_their_range():
    assert set(moves(LogUniform(low=1e-4, high=1e-1), 1e-3)) == {8e-4, 1.2e-3}
    assert set(moves(Uniform(low=0.95, high=1.1), 1.0)) == {0.95, 1.1}
    assert set(moves(Integer(low=1, high=20), 10)) == {8, 12}
    assert set(moves(Integer(low=1, high=3), 1)) == {1, 2}
    assert set(moves(Integer(low=-3, high=3), 0)) == {-1, 1}


def test_choices_move_to_a_neighbour():
    assert set(moves(Choice(values=["a", "b", "c"]), "b")) == {"a", "c"}
    assert set(moves(Choice(values=["a", "b", "c"]), "a")) == {"a", "b"}
    assert set(moves(Choice(values=["a", "b"]), "no more")) == {"a", "b"}


def test_mixtures_take_a_small_step_within_their_limits():
    simplex, start = Simplex(cap={"web": 0.4}, concentration=0.1), {"web": 0.3, "code": 0.4, "maths": 0.3}
    steps = moves(simplex, start, 200)
    assert all(sum(one.values()) == 1 and one["web"] <= 0.4 + 1 / 1024 for one in steps)
    for name, share in start.items():
        assert abs(np.mean([one[name] for one in steps]) - share) < 0.03
        assert 0.03 < np.std([one[name] for one in steps]) < 0.08
    assert sum(moves(simplex, "natural", 1)[0].values()) == 1


def test_a_change_draws_anew_or_moves_and_depends_on_its_number_only():
    space = Space({"lr": LogUniform(low=1e-5, high=1.0), "weights": Simplex()}, SHARES)
    settings = {"seed": 4, **space.sample(0, 0)[0]}
    near = [explore(space, NEVER, settings, 0, number) for number in range(20)]
    assert {round(one["lr"] / settings["lr"], 2) for one in near} == {0.8, 1.2}
    assert all(one["seed"] == 4 for one in near)
    anew = [explore(space, ALWAYS, settings, 0, number) for number in range(20)]
    assert len({one["lr"] for one in anew}) == 20
    assert explore(space, ALWAYS, settings, 0, 3) == anew[3] != explore(space, ALWAYS, settings, 1, 3)


def test_settings_come_and_go_with_their_conditions():
    space = Space(
        {
            "optimizer": Choice(values=["adamw", "muon"]),
            "momentum": Uniform(low=0.8, high=0.99, when={"optimizer": ["muon"]}),
        },
        SHARES,
    )
    changed = [explore(space, NEVER, {"optimizer": "adamw"}, 0, number) for number in range(30)]
    changed += [explore(space, NEVER, {"optimizer": "muon", "momentum": 0.9}, 0, number) for number in range(30)]
    assert {one["optimizer"] for one in changed} == {"adamw", "muon"}
    assert all(("momentum" in one) == (one["optimizer"] == "muon") for one in changed)
