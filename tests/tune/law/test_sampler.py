"""The search as a sampler: one step at a time, the next one when all results of the last are told."""

import pytest
from ray import cloudpickle
from support.synthetic_domains import Domains

from rayllm.core.errors import RunFailed
from rayllm.tune.law import surfaces, validation
from rayllm.tune.law.config import LawConfig
from rayllm.tune.law.runs import same
from rayllm.tune.law.sampler import LawSampler

DOMAINS = Domains(3, 1, 0.001)
PROBLEM = DOMAINS.problem(LawConfig(rounds=2, bootstraps=20))


@pytest.fixture(autouse=True)
def _smooth_families_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "FAMILIES", tuple(family for family in surfaces.FAMILIES if family.smooth))


def test_the_next_step_waits_for_the_last_result_of_this_one() -> None:
    sampler = LawSampler(PROBLEM, same)
    asked = [sampler.ask() for _ in range(12)]
    assert None not in asked
    for settings in asked[:-1]:
        sampler.tell(DOMAINS.train(PROBLEM, settings))
    assert sampler.ask() is None
    assert not sampler.done
    sampler.tell(DOMAINS.train(PROBLEM, asked[-1]).model_copy(update={"settings": {}}))  # known by its key
    confirmation = sampler.ask()
    assert confirmation is not None
    assert "seed" in confirmation


def test_what_was_not_told_at_the_end_was_not_paid_for() -> None:
    sampler = LawSampler(PROBLEM, same)
    for _ in range(12):
        sampler.tell(DOMAINS.train(PROBLEM, sampler.ask()))
    assert sampler.ask() is not None
    assert sampler.outcome().why == "the budget is spent before the proposal was confirmed"


def test_what_the_budget_stopped_was_not_made() -> None:
    sampler = LawSampler(PROBLEM, same)
    for _ in range(12):
        sampler.tell(DOMAINS.train(PROBLEM, sampler.ask()))
    while (settings := sampler.ask()) is not None:
        sampler.tell(DOMAINS.train(PROBLEM, settings).model_copy(update={"status": "stopped"}))
    assert sampler.outcome().why == "the budget is spent before the proposal was confirmed"


def test_too_few_results_are_an_error_at_the_end_and_not_within_the_executor() -> None:
    sampler = LawSampler(PROBLEM, same)
    for _ in range(12):
        sampler.tell(DOMAINS.train(PROBLEM, sampler.ask()).model_copy(update={"status": "failed", "metrics": {}}))
    assert sampler.ask() is None
    assert sampler.done
    with pytest.raises(RunFailed):
        sampler.outcome()


def test_it_can_be_written_down_in_the_middle_and_a_copy_begins_anew() -> None:
    sampler = LawSampler(PROBLEM, same)
    first = sampler.ask()
    sampler.ask()
    assert cloudpickle.loads(cloudpickle.dumps(sampler)).ask() == first
