import pytest
from simulated_sweep import objective, trial

from rayllm.tune.replicates import confirmations, fresh_seeds, gather
from rayllm.tune.significance_config import SignificanceConfig

CONFIG = SignificanceConfig(leaders=2, seeds=3)
SCREENED = [trial(0, {}, 2.0), *(trial(n, {"lr": n}, 2.0 - n / 10) for n in range(1, 5))]


def wanted(results, config=CONFIG, baselines=({},)):
    return confirmations(results, objective, config, baselines, seed=7)


def test_the_leaders_get_fresh_seeds_and_the_baseline_what_it_lacks():
    first, second, third = fresh_seeds(7, 3)
    assert wanted(SCREENED) == [
        *({"lr": 4, "seed": seed} for seed in (first, second, third)),
        *({"lr": 3, "seed": seed} for seed in (first, second, third)),
        *({"seed": seed} for seed in (first, second)),
    ]


def test_an_interrupted_sweep_asks_for_the_rest_and_then_for_nothing():
    plan = wanted(SCREENED)
    results = list(SCREENED)
    for done, one in enumerate(plan):
        assert wanted(results) == plan[done:]
        results.append(trial(len(results), one, 9.0))  # a bad confirmation does not bring in another leader
    assert wanted(results) == []


def test_failed_stopped_and_unsteady_trials_do_not_lead():
    results = [
        *SCREENED,
        trial(5, {"lr": 5}, 0.0, status="stopped"),
        trial(6, {"lr": 6}, 0.0, status="failed"),
        trial(7, {"lr": 7, "seed": 1}, 0.0),
        trial(8, {"lr": 7, "seed": 2}, 0.0, status="failed"),
    ]
    assert {one.get("lr") for one in wanted(results)} == {4, 3, None}


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_a_baseline_that_did_not_come_to_its_end_gets_every_seed(status):
    results = [trial(0, {}, 2.0, status=status), *SCREENED[1:]]
    assert [one["seed"] for one in wanted(results) if "lr" not in one] == fresh_seeds(7, 3)


def test_a_baseline_that_a_population_changed_is_trained_as_it_was():
    results = [trial(0, {"lr": 9}, 2.0), *SCREENED[1:]]
    asked = wanted(results, baselines=[{"decay": 0.5}])
    assert [one for one in asked if "lr" not in one] == [{"decay": 0.5, "seed": seed} for seed in fresh_seeds(7, 3)]


def test_confirmations_that_the_budget_stopped_are_still_wanted():
    plan = wanted(SCREENED)
    stopped = [trial(9 + place, one, 1.0, status="stopped") for place, one in enumerate(plan)]
    assert wanted([*SCREENED, *stopped]) == plan


def test_no_leaders_are_wanted_where_none_are_asked_for_or_none_are_there():
    assert wanted(SCREENED, SignificanceConfig(leaders=0)) == []
    assert wanted(SCREENED[:1]) == []


def test_more_seeds_keep_the_first_ones():
    assert fresh_seeds(3, 5)[:2] == fresh_seeds(3, 2)
    assert set(fresh_seeds(3, 5)).isdisjoint(fresh_seeds(4, 5))


def test_a_trial_that_ran_again_counts_once():
    groups = gather([trial(0, {"lr": 1}, 5.0, status="failed"), trial(1, {"lr": 1}, 2.0)], objective)
    assert [(one.values, one.failed) for one in groups.values()] == [((2.0,), 0)]
