"""The whole search: what to train, round after round, to a verdict.

A round trains points, fits a law, proposes its optimum, and trains the proposal at seeds that were not used before,
beside the natural and the uniform mixture and the best proposal so far. The search ends when what the law still
promises is under the noise, when the rounds are spent, or when a training that it asked for was not made. It asks by
``yield`` and looks at results alone: given the same results again, as from a ledger, it asks for the same.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from rayllm.core.rng import derive_seed
from rayllm.data.mixing.weights import Weights
from rayllm.tune.law.confirm import Comparison, Difference
from rayllm.tune.law.design import Shares, fill_space
from rayllm.tune.law.proposal import Proposal, propose
from rayllm.tune.law.runs import NATURAL, UNIFORM, Book, Problem, name_of, same
from rayllm.tune.results import TrialResult
from rayllm.tune.space import Settings

REFERENCES = (NATURAL, UNIFORM)
#: How much nearer than the first round's points later ones stay to their centre, as a factor of the concentration.
NEARER = 8.0
#: Mixtures whose shares differ by less in sum are the same for us: a point in a hundred.
ALIKE = 0.02


@dataclass(frozen=True)
class Trainings:
    """A step of the search.

    Attributes:
        purpose: What for, in words.
        settings: What to train; some may have been trained before.
        proposal: What the law says, where this is its confirmation.
    """

    purpose: str
    settings: list[Settings]
    proposal: Proposal | None = None


@dataclass(frozen=True)
class Confirmation:
    """The proposal of a round against what it had to beat, by their names.

    Attributes:
        against: Difference of the proposal to each.
        better: Whether it beats all of them for sure.
    """

    against: dict[str, Difference]
    better: bool


@dataclass(frozen=True)
class Round:
    """A round as it went.

    Attributes:
        proposal: What the law said; None if the budget ended before it could be fitted.
        confirmation: What training said; None if it was not asked.
    """

    proposal: Proposal | None
    confirmation: Confirmation | None


@dataclass(frozen=True)
class Outcome:
    """The end of the search.

    Attributes:
        rounds: How it went.
        best: The mixture to train: the confirmed proposal, else the better of natural and uniform.
        confirmed: Whether it is a proposal that is better for sure.
        reference: The better of natural and uniform.
        lead: Confirmed difference of the best to the reference; None if nothing was compared.
        why: Why the search ended, in words.
    """

    rounds: list[Round]
    best: Weights
    confirmed: bool
    reference: str
    lead: Difference | None
    why: str


def search(problem: Problem) -> Generator[Trainings, Sequence[TrialResult], Outcome]:
    """Ask for trainings until the best mixture is known; send the results of each step's settings.

    Args:
        problem: What the law is asked.

    Returns:
        How it ended. Results that lack some of the settings end it: the budget is spent. Failed trainings count as
        made.

    Raises:
        RunFailed: If too few trainings finished.
    """
    state = _Search(problem)
    for number in range(problem.config.rounds):
        points = state.points(number)
        if not state.take(points, (yield points)):
            return state.end("the budget is spent")
        proposal = state.fit(number)
        if why := state.finished(proposal):
            state.rounds.append(Round(proposal, None))
            return state.end(why)
        trainings = state.confirmation(proposal, number)
        if not state.take(trainings, (yield trainings)):
            state.rounds.append(Round(proposal, None))
            return state.end("the budget is spent before the proposal was confirmed")
        state.judge(proposal, trainings)
    return state.end(f"all {problem.config.rounds} rounds are done")


class _Search:
    """One walk through the rounds; remembers what was trained and what is the best so far."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._book, self._config = problem, Book(problem), problem.config
        self.rounds: list[Round] = []
        self._asked: list[Settings] = []
        self._compared: list[Settings] = [problem.settings(NATURAL), problem.settings(UNIFORM)]
        self._champion: Shares | None = None

    def take(self, asked: Trainings, results: Sequence[TrialResult]) -> bool:
        """Note results; whether they are all that was asked for."""
        self._book.add(results)
        self._asked += asked.settings
        return not self._book.missing(asked.settings)

    def points(self, number: int) -> Trainings:
        """The trainings that a round's law gets."""
        problem, config, domains = self._problem, self._config, len(self._problem.sizes)
        references = [problem.shares(name) for name in REFERENCES]
        if number == 0:
            centre, concentration = problem.natural, config.concentration
            count = max(math.ceil(config.runs_per_domain * domains), domains + 2) - len(references)
            tried = np.asarray(references)
        else:
            last = self.rounds[-1].proposal
            assert last, "a round without a proposal is the last"
            centre, concentration = last.mixture, config.concentration * NEARER
            count = math.ceil(config.refine_per_domain * domains)
            tried = self._book.table(self._asked)[0]
        chosen = fill_space(
            centre,
            count,
            concentration=concentration,
            bounds=problem.bounds,
            tried=tried,
            seed=derive_seed(problem.sweep_seed, "law points", number),
        )
        settings = [problem.settings(problem.weights(row)) for row in chosen]
        first = self._compared[:2] if number == 0 else []
        return Trainings(f"round {number + 1}: points for the law", _distinct([*first, *settings]))

    def fit(self, number: int) -> Proposal:
        """The law of all trainings so far."""
        others = {name: self._problem.shares(name) for name in REFERENCES}
        if self._champion is not None:
            others["the best so far"] = self._champion
        return propose(self._problem, *self._book.table(self._asked), others, number)

    def finished(self, proposal: Proposal) -> str:
        """Why the search is over before this proposal is trained; empty if it is not."""
        best = self._best_so_far()
        if np.abs(proposal.mixture - self._problem.shares(best)).sum() < ALIKE:
            return "the law's optimum is the best mixture so far"
        if not self.rounds:
            return ""
        resolved = self._comparison().half_width(2 / self._config.seeds)
        gain = proposal.gains[best if isinstance(best, str) else "the best so far"].mean
        if gain < resolved:
            return f"what the law still promises ({gain:.4f}) is under the noise ({resolved:.4f})"
        return ""

    def confirmation(self, proposal: Proposal, number: int) -> Trainings:
        """The proposal and what it has to beat, at seeds of their own."""
        problem, count = self._problem, self._config.seeds
        seeds = [problem.run_seed + 1 + number * count + index for index in range(count)]
        rivals: list[Weights] = [problem.weights(proposal.mixture), *REFERENCES]
        if self._champion is not None:
            rivals.append(problem.weights(self._champion))
        settings = [problem.settings(weights, seed) for seed in seeds for weights in rivals]
        return Trainings(f"round {number + 1}: confirmation at {count} new seeds", settings, proposal)

    def judge(self, proposal: Proposal, trainings: Trainings) -> None:
        """Compare the proposal with what it has to beat; it is the best so far if it beats all."""
        self._compared += trainings.settings
        comparison, mine = self._comparison(), name_of(self._problem.weights(proposal.mixture))
        against = {name: comparison.difference(mine, name) for name in REFERENCES}
        if self._champion is not None:
            rival = name_of(self._problem.weights(self._champion))
            against["the best so far"] = comparison.difference(mine, rival)
        better = all(difference.better for difference in against.values())
        self.rounds.append(Round(proposal, Confirmation(against, better)))
        if better:
            self._champion = proposal.mixture

    def end(self, why: str) -> Outcome:
        """The verdict on what was found so far."""
        comparison, reference = self._comparison(), self._reference()
        if self._champion is not None:
            best: Weights = self._problem.weights(self._champion)
            lead = comparison.difference(name_of(best), reference)
            return Outcome(self.rounds, best, True, reference, lead, why)
        confirmed = [one.confirmation for one in self.rounds if one.confirmation]
        lead = confirmed[-1].against[reference] if confirmed else None
        best = "natural" if reference == NATURAL else "uniform"
        return Outcome(self.rounds, best, False, reference, lead, why)

    def _comparison(self) -> Comparison:
        return Comparison(self._book.measured(self._compared), self._config.confidence)

    def _reference(self) -> str:
        return UNIFORM if self._comparison().difference(UNIFORM, NATURAL).mean < 0 else NATURAL

    def _best_so_far(self) -> Weights:
        if self._champion is not None:
            return self._problem.weights(self._champion)
        return "uniform" if self._reference() == UNIFORM else "natural"


def _distinct(settings: Sequence[Settings]) -> list[Settings]:
    return list({same(one): one for one in settings}.values())
