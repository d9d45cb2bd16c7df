from planted import SHARES, SPACE, search

from rayllm.tune.dimensions import Choice, Grid, Uniform
from rayllm.tune.samplers.random import RandomSampler
from rayllm.tune.space import Space


def proposals(space, count, seed=0):
    return [settings for settings, _ in search(RandomSampler(Space(space, SHARES), seed), count, lambda _: 0.0)]


def test_samples_come_in_order_and_do_not_depend_on_results():
    told = [settings for settings, _ in search(RandomSampler(SPACE, 3), 5)]
    sampler = RandomSampler(SPACE, 3)
    assert [sampler.ask() for _ in range(5)] == told == [SPACE.sample(number, 3)[0] for number in range(5)]


def test_a_space_without_chance_is_tried_once():
    assert proposals({"g": Grid(values=[1, 2])}, 9) == [{"g": 1}, {"g": 2}]


def test_a_space_that_is_spent_ends_the_search():
    found = proposals({"a": Choice(values=[1, 2, 3]), "g": Grid(values=["x", "y"])}, 99)
    assert len(found) == 6


def test_a_sample_is_crossed_with_the_grid_before_the_next():
    found = proposals({"u": Uniform(low=0, high=1), "g": Grid(values=[1, 2])}, 4)
    assert [one["g"] for one in found] == [1, 2, 1, 2]
    assert found[0]["u"] == found[1]["u"] != found[2]["u"]
