import logging

import pytest
from simulated_sweep import objective, trial

from rayllm.core.errors import RunFailed
from rayllm.pipelines.tune.belief import (
    FoundMixture,
    best_settings,
    confirm,
    confirming,
    said_by_law,
    searching,
    spelled_out,
    verdict_of,
)
from rayllm.tune.budget import BudgetConfig
from rayllm.tune.config import TuneConfig
from rayllm.tune.results import Ledger, group_of
from rayllm.tune.schedulers import AshaScheduler
from rayllm.tune.significance_config import SignificanceConfig
from rayllm.tune.space import Uniform

BASELINES = {group_of({}): "run file"}


def config(**fields) -> TuneConfig:
    space = {"train.optimizer.lr": Uniform(low=0.0, high=1.0)}
    return TuneConfig(space=space, **({"budget": BudgetConfig(trials=5, hours=2.0)} | fields))


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    ledger = Ledger(str(tmp_path / "trials.jsonl"))
    for number, settings in enumerate([{}, {"lr": 1}, {"lr": 2}, {"lr": 3}]):
        ledger.append(trial(number, settings, 2.0 - number / 10))
    return ledger


def trainer(ledger: Ledger, room: int = 99):
    """Trains by adding noise that depends on the seed, as many trials as there is room for."""
    asked = []

    def train(wanted):
        asked.append(list(wanted))
        for one in wanted[:room]:
            value = 2.0 - one.get("lr", 0) / 10 + one["seed"] % 3 / 1000
            ledger.append(trial(len(ledger.results), one, value))

    return train, asked


def test_the_leaders_are_trained_again_once_and_then_named(ledger):
    train, asked = trainer(ledger)
    confirm(ledger, train, config(), objective, [{}])
    confirm(ledger, train, config(), objective, [{}])  # as a second start would
    assert len(asked) == 1
    assert [one.get("lr") for one in asked[0]] == [3, 3, 3, 2, 2, 2, None, None]
    verdict = verdict_of(ledger.results, config(), objective, BASELINES)
    assert verdict.kind == "winner"
    assert best_settings(ledger.results, verdict) == {"lr": 3}


def test_an_interrupted_confirmation_goes_on_where_it_was(ledger):
    train, asked = trainer(ledger, room=3)
    confirm(ledger, train, config(), objective, [{}])
    confirm(ledger, train, config(), objective, [{}])
    assert asked[1] == asked[0][3:]


def test_a_spent_budget_is_said(ledger, caplog):
    train, _ = trainer(ledger, room=0)
    with caplog.at_level(logging.WARNING):
        confirm(ledger, train, config(), objective, [{}])
    assert "8 trials that would confirm the leaders are missing" in caplog.text


def test_the_search_leaves_hours_for_the_confirmations_and_they_are_neither_stopped_nor_counted():
    settings = config(scheduler=AshaScheduler())
    assert searching(settings).budget == BudgetConfig(trials=5, hours=1.4)
    assert confirming(settings).budget == BudgetConfig(trials=None, hours=2.0)
    assert confirming(settings).scheduler.kind == "none"
    alone = config(significance=SignificanceConfig(leaders=0))
    assert searching(alone) == alone


def test_a_search_by_law_has_the_laws_verdict_mixture_and_surface(ledger):
    point = {"a": 0.2, "b": 0.3, "c": 0.5}
    law = {
        "verdict": "Not better.",
        "confirmed": False,
        "setting": "mixture.weights",
        "rounds": [{"proposal": {"mixture": point}, "confirmation": None}, {"proposal": None, "confirmation": None}],
        "surface": [{"weights": point, "objective": 1.5}],
    }
    found = FoundMixture.read(law, {"lr": 1}, "k1")
    verdict = said_by_law(found, ledger.results, config(), objective)
    assert (verdict.kind, verdict.sentence, verdict.trial) == ("tied", "Not better.", 1)
    assert best_settings(ledger.results, verdict) == {"lr": 1}
    assert found.references == {group_of({"mixture.weights": name}): name for name in ("natural", "uniform")}
    assert found.surface is not None
    assert (found.surface.points, found.surface.optimum) == (((point, 1.5),), point)
    assert FoundMixture.read(law | {"surface": None}, {}, "").surface is None


def test_the_law_confirms_at_equal_seeds_so_its_mixture_leads_whatever_the_plain_means_are():
    path, old, new, lucky = "mixture.weights", {"a": 0.2, "b": 0.8}, {"a": 0.3, "b": 0.7}, {"a": 0.4, "b": 0.6}
    values = [("natural", 1, 2.0), ("uniform", 1, 2.1), (lucky, 1, 1.0)]
    values += [(old, 2, 1.5), (old, 3, 1.51), ("natural", 2, 1.8), ("uniform", 2, 1.9)]  # seeds that are easy for all
    values += [(new, 4, 1.8), (new, 5, 1.81), ("natural", 4, 2.2), ("uniform", 4, 2.3)]
    results = [trial(n, {path: weights, "seed": seed}, value) for n, (weights, seed, value) in enumerate(values)]
    confirmed = [{"proposal": {"mixture": one}, "confirmation": {"better": True}} for one in (old, new)]
    law = {"verdict": "Better.", "confirmed": True, "setting": path, "rounds": confirmed, "surface": None}
    verdict = said_by_law(FoundMixture.read(law, {path: new}, ""), results, config(), objective)
    assert (verdict.kind, verdict.trial, verdict.mean) == ("winner", 7, pytest.approx(1.805))
    assert [one.trial for one in verdict.contenders] == [7, 3, 0, 1]
    assert best_settings(results, verdict) == {path: new}


def test_a_mixture_that_the_law_keeps_but_that_was_never_trained_is_an_error(ledger):
    law = {"verdict": "", "confirmed": False, "setting": "lr", "rounds": [], "surface": None}
    found = FoundMixture.read(law, {"lr": 7}, "unknown")
    with pytest.raises(RunFailed, match="was not trained"):
        said_by_law(found, ledger.results, config(), objective)


def test_mixtures_that_have_a_name_stand_in_the_page_with_their_weights():
    named = [trial(n, {"mixture.weights": name, "lr": "uniform"}, 1.0) for n, name in enumerate(("natural", "uniform"))]
    shown = spelled_out(named, {"a": 0.75, "b": 0.25})
    assert [one.settings for one in shown] == [
        {"mixture.weights": {"a": 0.75, "b": 0.25}, "lr": "uniform"},
        {"mixture.weights": {"a": 0.5, "b": 0.5}, "lr": "uniform"},
    ]
    assert [one.group for one in shown] == [one.group for one in named]
