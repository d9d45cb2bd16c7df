"""What was found is told in one sentence, and kept as JSON."""

import json

import pytest
from support.synthetic_domains import Domains, train_all

from rayllm.tune.law import surfaces, validation
from rayllm.tune.law.config import LawConfig
from rayllm.tune.law.rounds import Outcome
from rayllm.tune.law.runs import Problem
from rayllm.tune.law.summary import proposal_sentence, sentence, surface, to_json


def solved(kind: str, count: int = 3) -> tuple[Problem, Outcome]:
    domains = Domains(count, 1, noise=0.002, kind=kind)
    problem = domains.problem(LawConfig(rounds=1, bootstraps=20))
    return problem, train_all(problem, lambda settings: domains.train(problem, settings))[0]


@pytest.fixture(autouse=True)
def _smooth_families_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "FAMILIES", tuple(family for family in surfaces.FAMILIES if family.smooth))


def test_a_confirmed_mixture_is_named_with_its_gain_and_interval() -> None:
    problem, outcome = solved("exponential")
    text = sentence(problem, outcome)
    assert outcome.confirmed
    assert text.startswith("domain0 0.")
    assert f"is better than {outcome.reference} by 0." in text
    assert "confirmed at 2 new seeds" in text


def test_what_is_not_better_is_said_to_be_so_and_its_law_not_to_be_believed() -> None:
    problem, outcome = solved("flat")
    assert sentence(problem, outcome).startswith("Not better: ")
    assert sentence(problem, outcome).endswith(f"{outcome.reference} is kept.")
    proposal = outcome.rounds[0].proposal
    assert proposal is not None
    assert "it is not to be believed" in proposal_sentence(problem, proposal)


def test_the_record_has_all_that_was_found() -> None:
    problem, outcome = solved("exponential")
    record = json.loads(json.dumps(to_json(problem, outcome), allow_nan=False))
    first = record["rounds"][0]["proposal"]
    assert set(first["held_out"]) == {"exponential law", "log-linear law", "Gaussian process"}
    assert set(first["coefficients"]) == set(problem.metrics)
    assert set(first["coefficients"][problem.metrics[0]]["slopes"]) == set(problem.domains)
    for name, (low, high) in first["interval"].items():
        assert low <= first["mixture"][name] <= high
    assert record["rounds"][0]["confirmation"]["against"]["natural"]["high"] < 0
    assert record["best"] == outcome.best


def test_the_surface_of_three_domains_covers_the_triangle_and_is_lowest_near_the_proposal() -> None:
    problem, outcome = solved("exponential")
    points = surface(problem, outcome)
    assert points is not None
    assert len(points) > 200
    lowest = min(points, key=lambda point: point["objective"])["weights"]
    proposal = outcome.rounds[0].proposal
    assert proposal is not None
    shares = problem.weights(proposal.mixture)
    assert sum(abs(lowest[name] - shares[name]) for name in shares) < 0.5
    assert surface(*solved("flat", count=4)) is None
