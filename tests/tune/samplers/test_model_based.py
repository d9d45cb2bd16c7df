import statistics

import pytest
from planted import BEST, MEAN, SHARES, SPACE, ended, loss, search
from pydantic import ValidationError

from rayllm.core.errors import ConfigError
from rayllm.tune.config import TuneConfig
from rayllm.tune.dimensions import Choice, Grid, Integer, Uniform
from rayllm.tune.samplers.config import CmaEsSearch, RandomSearch, TpeSearch
from rayllm.tune.space import Space

LEARNING = [TpeSearch(startup=8), CmaEsSearch()]


def medians_of_best(config, trials, seeds=range(5)):
    return statistics.median(
        min(value for _, value in search(config.build(SPACE, MEAN, seed), trials)) for seed in seeds
    )


@pytest.mark.parametrize("config", LEARNING, ids=["tpe", "cmaes"])
def test_a_planted_optimum_is_found_faster_than_by_chance(config):
    """With as many trials, the best one is less than half as far above the optimum."""
    assert medians_of_best(config, 50) < medians_of_best(RandomSearch(), 50) / 2


@pytest.mark.parametrize("config", LEARNING, ids=["tpe", "cmaes"])
def test_the_same_seed_and_results_give_the_same_proposals(config):
    first = search(config.build(SPACE, MEAN, 1), 20, at_once=4)
    assert search(config.build(SPACE, MEAN, 1), 20, at_once=4) == first
    assert search(config.build(SPACE, MEAN, 2), 20, at_once=4) != first
    other_results = search(config.build(SPACE, MEAN, 1), 20, value=lambda one: -loss(one), at_once=4)
    assert [settings for settings, _ in other_results] != [settings for settings, _ in first]


def test_trials_asked_for_at_the_same_time_differ():
    sampler = TpeSearch(startup=2).build(SPACE, MEAN, 0)
    search(sampler, 12)
    asked = [sampler.ask() for _ in range(4)]
    assert len({one["lr"] for one in asked}) == 4


def test_conditional_settings_are_proposed_only_where_they_exist():
    space = Space(
        {
            "optimizer": Choice(values=["adamw", "muon"]),
            "momentum": Uniform(low=0.8, high=0.99, when={"optimizer": ["muon"]}),
        },
        SHARES,
    )
    found = search(TpeSearch(startup=4).build(space, MEAN, 0), 30, lambda one: one.get("momentum", 2.0))
    assert all(("momentum" in one) == (one["optimizer"] == "muon") for one, _ in found)
    late = [one["optimizer"] for one, _ in found[15:]]
    assert late.count("muon") > late.count("adamw")


def test_a_stopped_trial_counts_as_worse_than_what_came_further():
    """Trials with a small learning rate are stopped at a value that looks good: it must not draw the search there."""
    space = Space({"x": Uniform(low=0, high=1), "y": Uniform(low=0, high=1)}, SHARES)
    sampler = TpeSearch(startup=6).build(space, MEAN, 0)
    for number in range(30):
        settings = sampler.ask()
        stopped = settings["x"] < 0.5
        result = ended(settings, 0.1 if stopped else 1.0, "stopped" if stopped else "finished", 10 if stopped else 100)
        sampler.tell(result.model_copy(update={"trial": number}))
    late = [sampler.ask()["x"] for _ in range(10)]
    assert sum(x > 0.5 for x in late) >= 8


@pytest.mark.parametrize("config", LEARNING, ids=["tpe", "cmaes"])
def test_a_trial_that_waited_and_went_on_is_known_by_how_far_it_came(config):
    """Told at a rung, then at the end: a small x looks best at the rung, and is the worst in the end."""
    space = Space({"x": Uniform(low=0, high=1), "y": Uniform(low=0, high=1)}, SHARES)
    sampler = config.build(space, MEAN, 0)
    for number in range(40):
        settings = sampler.ask()
        at_rung = ended(settings, settings["x"], "stopped", 10).model_copy(update={"trial": number})
        at_end = ended(settings, 2 - settings["x"], "finished", 100).model_copy(update={"trial": number})
        sampler.tell(at_rung)
        sampler.tell(at_end)
        sampler.tell(at_rung)  # which says nothing new
    assert len(sampler._study.trials) == 80
    if isinstance(config, TpeSearch):  # generations of CMA-ES end at rungs
        assert statistics.mean(sampler.ask()["x"] for _ in range(10)) > 0.6


def test_failed_trials_and_those_without_a_value_teach_nothing_and_may_be_told_again():
    sampler = TpeSearch(startup=1).build(SPACE, MEAN, 0)
    first, second = sampler.ask(), sampler.ask()
    sampler.tell(ended(first, None, "failed"))
    sampler.tell(ended(second, None))
    sampler.tell(ended(first, 1.0))
    sampler.tell(ended(first, 1.0))
    sampler.tell(ended({"lr": 0.5}, 1.0))  # of another sampler
    assert sampler.ask() is not None


def test_a_space_that_is_spent_ends_the_search():
    space = Space({"a": Choice(values=[1, 2]), "n": Integer(low=1, high=2)}, SHARES)
    sampler = TpeSearch().build(space, MEAN, 0)
    found = search(sampler, 50, lambda one: float(one["a"]))
    assert len(found) == 4
    assert sampler.done


def test_a_spent_space_waits_for_the_trials_that_run():
    sampler = TpeSearch().build(Space({"g": Grid(values=[1, 2])}, SHARES), MEAN, 0)
    asked = [sampler.ask(), sampler.ask()]
    assert sampler.ask() is None
    assert not sampler.done
    for one in asked:
        sampler.tell(ended(one, 1.0))
    assert sampler.ask() is None
    assert sampler.done


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"a": {"kind": "choice", "values": [1, 2]}}, "`a` is a choice: use `kind: tpe`"),
        (
            {
                "n": {"kind": "int", "low": 1, "high": 2},
                "u": {"kind": "uniform", "low": 0, "high": 1, "when": {"n": [1]}},
            },
            "`u` depends on another",
        ),
    ],
)
def test_cma_es_refuses_what_has_no_coordinates(space, words):
    with pytest.raises(ValidationError, match=words):
        TuneConfig.model_validate({"space": space, "sampler": {"kind": "cmaes"}})


def test_cma_es_refuses_a_line():
    with pytest.raises(ConfigError, match="at least two numbers"):
        CmaEsSearch().build(Space({"u": Uniform(low=0, high=1)}, SHARES), MEAN, 0)


def test_a_search_learns_from_baselines_that_it_did_not_propose():
    """Told of good ones around the optimum and of bad ones elsewhere, its first proposals already lie near the good."""
    near = [{"weights": BEST, "lr": 3e-3 * factor} for factor in (0.8, 0.9, 1.0, 1.1)]
    far = SPACE.sample(0, 1) + SPACE.sample(1, 1) + SPACE.sample(2, 1) + [{"weights": "natural", "lr": 1e-5}]
    named = {"natural": SHARES}
    loss_of = lambda one: loss({**one, "weights": named.get(str(one["weights"]), one["weights"])})  # noqa: E731
    wise = TpeSearch(startup=4).build(SPACE, MEAN, 0)
    for one in [*near, *far, *({**one, "lr": one["lr"] * 1.01} for one in near)]:
        wise.tell(ended(one, loss_of(one)))
    naive = TpeSearch(startup=4).build(SPACE, MEAN, 0)
    proposals = {name: [loss(sampler.ask()) for _ in range(8)] for name, sampler in {"w": wise, "n": naive}.items()}
    assert statistics.median(proposals["w"]) < 0.5 * statistics.median(proposals["n"])


def first_generation(*told):
    """Losses of the first proposals of CMA-ES after these settings and losses."""
    sampler = CmaEsSearch().build(SPACE, MEAN, 0)
    for settings, value in told:
        sampler.tell(ended(settings, value))
    return [loss(sampler.ask()) for _ in range(8)]


def test_cma_es_begins_at_the_best_baseline():
    good, bad = {"weights": BEST, "lr": 3e-3}, {"weights": "natural", "lr": 1e-5}
    known = [(good, 0.0), (bad, 2.0)]
    assert statistics.median(first_generation(*known)) < 0.5 * statistics.median(first_generation((bad, 2.0)))
    assert first_generation(*known) == first_generation(*known[::-1])


def test_the_start_of_cma_es_stays_when_a_better_baseline_ends_after_it_has_begun():
    late, without = CmaEsSearch().build(SPACE, MEAN, 0), CmaEsSearch().build(SPACE, MEAN, 0)
    for sampler, value in ((late, 0.0), (without, 9.0)):
        sampler.tell(ended({"weights": "natural", "lr": 1e-5}, 2.0))
        sampler.ask()
        sampler.tell(ended({"weights": BEST, "lr": 3e-3}, value))
    assert [late.ask() for _ in range(4)] == [without.ask() for _ in range(4)]


def test_a_baseline_outside_the_space_teaches_nothing_and_is_no_obstacle():
    told, untold = (TpeSearch(startup=2).build(SPACE, MEAN, 0) for _ in range(2))
    for settings in ({}, {"lr": 5.0, "weights": "natural"}, {"weights": "natural", "lr": 1e-3, "other": 1}):
        told.tell(ended(settings, 1.0))
    assert [told.ask() for _ in range(3)] == [untold.ask() for _ in range(3)]
