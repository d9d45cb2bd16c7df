"""The search finds what can be found, names nothing where nothing is to be found, and depends on results alone."""

import itertools

import numpy as np
import pytest
from support.synthetic_domains import Domains, train_all

from rayllm.core.errors import RunFailed
from rayllm.tune.law import surfaces, validation
from rayllm.tune.law.config import LawConfig
from rayllm.tune.law.rounds import Outcome, search
from rayllm.tune.law.runs import Problem, same
from rayllm.tune.results import TrialResult
from rayllm.tune.space import Settings

QUICK = LawConfig(rounds=2, bootstraps=20)
SEEDS = (0, 1, 2)


@pytest.fixture(autouse=True)
def _smooth_families_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trees take most of the time, and are never the best of so few runs."""
    smooth = tuple(family for family in surfaces.FAMILIES if family.smooth)
    monkeypatch.setattr(validation, "FAMILIES", smooth)


def captured(domains: Domains, problem: Problem, outcome: Outcome) -> float:
    reference, best = domains.possible(problem)
    return (reference - domains.objective_of(problem, problem.shares(outcome.best))) / (reference - best)


def solve(domains: Domains, config: LawConfig = QUICK) -> tuple[Problem, Outcome, int]:
    problem = domains.problem(config)
    outcome, trainings = train_all(problem, lambda settings: domains.train(problem, settings))
    return problem, outcome, trainings


def test_most_of_the_possible_gain_is_captured_and_more_than_by_the_best_trial() -> None:
    law, best_trial = [], []
    for seed in SEEDS:
        domains = Domains(5, seed, noise=0.002)
        problem, outcome, trainings = solve(domains)
        law.append(captured(domains, problem, outcome))
        config = LawConfig(runs_per_domain=trainings / 5)
        step = next(search(domains.problem(config)))
        trials = [domains.train(problem, settings) for settings in step.settings]
        lowest = min(trials, key=lambda trial: problem.objective(trial.metrics))
        reference, best = domains.possible(problem)
        weights = problem.shares(lowest.settings[problem.path])  # pyright: ignore[reportArgumentType]
        best_trial.append((reference - domains.objective_of(problem, weights)) / (reference - best))
    assert np.mean(law) > 0.85
    assert np.mean(law) > np.mean(best_trial) + 0.2


def test_where_mixtures_make_no_difference_none_is_better() -> None:
    outcomes = [solve(Domains(3, seed, noise=0.005, kind="flat"))[1] for seed in range(6)]
    assert [outcome.confirmed for outcome in outcomes] == [False] * 6
    assert all(outcome.best in ("natural", "uniform") for outcome in outcomes)


def test_the_first_round_has_natural_and_uniform_and_four_runs_a_domain() -> None:
    step = next(search(Domains(3, 0, 0.01).problem(QUICK)))
    assert [settings["mixture.weights"] for settings in step.settings[:2]] == ["natural", "uniform"]
    assert len({same(settings) for settings in step.settings}) == 12
    assert not any("seed" in settings for settings in step.settings)


def test_a_proposal_meets_its_rivals_at_seeds_that_no_point_had() -> None:
    domains = Domains(3, 0, 0.001)
    problem = domains.problem(QUICK)
    walk = search(problem)
    points = next(walk)
    step = walk.send([domains.train(problem, settings) for settings in points.settings])
    seeds = [settings["seed"] for settings in step.settings]
    assert sorted(seeds) == [1, 1, 1, 2, 2, 2]
    assert problem.run_seed not in seeds
    assert [settings["mixture.weights"] for settings in step.settings].count("uniform") == 2


def test_a_search_that_is_begun_anew_with_the_same_results_asks_for_the_same() -> None:
    domains = Domains(3, 1, 0.001)
    problem = domains.problem(QUICK)
    asked: list[list[list[str]]] = [[], []]
    for log in asked:

        def train(settings: Settings, log: list = log) -> TrialResult:
            log.append(same(settings))
            return domains.train(problem, settings)

        train_all(problem, train)
    assert asked[0] == asked[1]
    assert len(asked[0]) > 18


@pytest.mark.parametrize("made", [2, 5, 12, 15, 18, 20])
def test_a_budget_that_is_spent_ends_the_search_with_what_is_known(made: int) -> None:
    domains = Domains(3, 1, 0.001)
    problem = domains.problem(QUICK)
    walk, left = search(problem), itertools.count(made, -1)
    wanted, outcome = next(walk), None
    while outcome is None:
        results = [domains.train(problem, settings) for settings in wanted.settings if next(left) > 0]
        try:
            wanted = walk.send(results)
        except StopIteration as end:
            outcome = end.value
    assert "budget" in outcome.why
    assert outcome.confirmed == (made >= 18)


def test_without_natural_and_uniform_there_is_nothing_to_beat() -> None:
    walk = search(Domains(3, 1, 0.001).problem(QUICK))
    next(walk)
    with pytest.raises(RunFailed, match="no training of the mixture 'uniform' finished"):
        walk.send([])


def test_failed_trainings_are_left_out_and_too_few_make_no_law() -> None:
    domains = Domains(3, 0, 0.001)
    problem = domains.problem(QUICK)

    def train(settings: Settings, failing: int, count: itertools.count) -> TrialResult:
        result = domains.train(problem, settings)
        number = next(count)
        return result.model_copy(update={"status": "failed", "metrics": {}}) if 2 <= number < 2 + failing else result

    count = itertools.count()
    outcome, _ = train_all(problem, lambda settings: train(settings, 3, count))
    assert outcome.rounds[0].proposal is not None
    assert outcome.rounds[0].proposal.runs == 9
    count = itertools.count()
    with pytest.raises(RunFailed, match="4 trainings are too few for a law of 3 domains"):
        train_all(problem, lambda settings: train(settings, 8, count))


def test_a_proposal_lies_within_its_own_intervals() -> None:
    domains = Domains(3, 0, 0.001)
    outcome = solve(domains, LawConfig(rounds=1))[1]
    proposal = outcome.rounds[0].proposal
    assert proposal is not None
    assert (proposal.low <= proposal.mixture).all()
    assert (proposal.mixture <= proposal.high).all()
    gain = proposal.gains["natural"]
    assert gain.low <= gain.mean <= gain.high
