import pytest
from planted import MEAN, SHARES, SPACE, ended, search

from rayllm.tune.dimensions import Choice
from rayllm.tune.samplers.combined import Chain, Replicated, mean_of
from rayllm.tune.samplers.config import TpeSearch
from rayllm.tune.samplers.random import RandomSampler
from rayllm.tune.samplers.sampler import ListSampler
from rayllm.tune.space import Space


class Listener(ListSampler):
    """Remembers what it was told."""

    def __init__(self, settings):
        super().__init__(settings)
        self.told = []

    def tell(self, result):
        self.told.append((result.settings, result.status, result.metrics))


def test_baselines_come_before_the_search():
    sampler = Chain([ListSampler([{}, {"weights": "uniform"}]), RandomSampler(SPACE, 0)])
    found = [settings for settings, _ in search(sampler, 4, lambda _: 0.0)]
    assert found == [{}, {"weights": "uniform"}, *SPACE.sample(0, 0), *SPACE.sample(1, 0)]


def test_what_two_propose_is_tried_once_and_told_to_both():
    first, second = Listener([{"a": 1}]), Listener([{"a": 1}, {"a": 2}])
    found = search(Chain([first, second]), 9, lambda one: float(one["a"]))
    assert [settings for settings, _ in found] == [{"a": 1}, {"a": 2}]
    assert [one[0] for one in first.told] == [{"a": 1}]
    assert [one[0] for one in second.told] == [{"a": 1}, {"a": 2}]


def test_a_search_is_told_of_what_was_proposed_before_it():
    first, second = Listener([{"a": 1}]), Listener([{"a": 2}])
    search(Chain([first, second]), 9, lambda one: float(one["a"]))
    assert [one[0] for one in first.told] == [{"a": 1}]
    assert [one[0] for one in second.told] == [{"a": 1}, {"a": 2}]


def test_a_result_that_is_known_before_it_is_asked_for_is_told_then():
    space = Space({"a": Choice(values=[1, 2])}, SHARES)
    sampler = Chain([TpeSearch().build(space, MEAN, 0)])
    sampler.tell(ended({"a": 1}, 1.0))
    sampler.tell(ended({"a": 2}, 2.0))
    assert sorted(one["a"] for one in (sampler.ask(), sampler.ask())) == [1, 2]
    assert sampler.ask() is None
    assert sampler.done


def test_every_settings_gets_its_seeds_and_the_search_is_told_their_mean():
    inner = Listener([{"a": 1}, {"a": 2}])
    values = iter([1.0, 2.0, 3.0, 5.0, 5.0, 5.0])
    found = search(Replicated(inner, 3, seed=7), 9, lambda _: next(values))
    assert [one for one, _ in found] == [
        {"a": value, **seed} for value in (1, 2) for seed in ({}, {"seed": 8}, {"seed": 9})
    ]
    assert inner.told == [
        ({"a": 1}, "finished", {"mean_bits_per_byte": 2.0}),
        ({"a": 2}, "finished", {"mean_bits_per_byte": 5.0}),
    ]


def test_replicates_that_wait_are_told_as_a_mean_where_they_have_come_equally_far():
    inner = Listener([{"a": 1}])
    sampler = Replicated(inner, 2, seed=7)
    first, second = sampler.ask(), sampler.ask()

    def tell(settings, value, tokens, status="stopped", cut=True):
        sampler.tell(ended(settings, value, status, tokens).model_copy(update={"cut": cut}))

    tell(first, 1.0, 10)
    tell(second, 3.0, 10)
    tell(first, 0.5, 30)
    assert [one[2]["mean_bits_per_byte"] for one in inner.told] == [2.0]
    tell(second, 1.5, 30)
    assert [one[2]["mean_bits_per_byte"] for one in inner.told] == [2.0, 1.0]
    tell(first, 0.2, 90, "finished", cut=False)
    assert len(inner.told) == 2
    tell(second, 1.5, 30, cut=False)  # it went no further
    assert inner.told[-1] == ({"a": 1}, "finished", {"mean_bits_per_byte": 0.2})


@pytest.mark.parametrize(
    ("ends", "status", "value"),
    [
        ((("finished", 1.0), ("finished", 3.0)), "finished", 2.0),
        ((("finished", 1.0), ("stopped", 9.0)), "finished", 1.0),
        ((("failed", None), ("stopped", 9.0)), "stopped", 9.0),
        ((("failed", None), ("failed", None)), "failed", None),
    ],
)
def test_the_mean_is_of_those_that_came_furthest(ends, status, value):
    made = [ended({"a": 1, "seed": seed}, one, how) for seed, (how, one) in enumerate(ends)]
    mean = mean_of(made, {"a": 1})
    assert (mean.status, mean.metrics.get("mean_bits_per_byte"), mean.settings) == (status, value, {"a": 1})
