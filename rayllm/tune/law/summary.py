"""A search for people and programs: one sentence, a table, ``law.json``.

In: the problem and the outcome. Out: text and JSON with all that was found: coefficients, how well each family predicts
what it has not seen, proposals with their intervals, confirmations, and the predicted surface of three domains.
"""

from typing import Any

import numpy as np

from rayllm.data.mixing.weights import Weights
from rayllm.tune.law.confirm import Difference
from rayllm.tune.law.design import Points
from rayllm.tune.law.proposal import Proposal
from rayllm.tune.law.rounds import Confirmation, Outcome, Round
from rayllm.tune.law.runs import Problem

#: Steps from one corner of the triangle to the next.
GRID = 24


def sentence(problem: Problem, outcome: Outcome) -> str:
    """The verdict."""
    if outcome.confirmed and outcome.lead:
        gain = _interval(-outcome.lead.mean, -outcome.lead.high, -outcome.lead.low)
        text = f"{mixture_text(outcome.best)} is better than {outcome.reference} by {gain}"
        return f"{text}, confirmed at {problem.config.seeds} new seeds; {outcome.why}."
    if outcome.lead is None:
        return f"No proposal was confirmed or refuted: {outcome.why}; {outcome.reference} is kept."
    gain = _interval(-outcome.lead.mean, -outcome.lead.high, -outcome.lead.low)
    return (
        f"Not better: the last proposal's gain over {outcome.reference} is {gain}; {outcome.why}; "
        f"{outcome.reference} is kept."
    )


def proposal_sentence(problem: Problem, proposal: Proposal) -> str:
    """What the law proposes, what it promises, and whether to believe it."""
    held = proposal.choice.held_out
    promise = ", ".join(f"{_interval(gain.mean, gain.low, gain.high)} over {n}" for n, gain in proposal.gains.items())
    sure = "" if held.believed else "; it is not to be believed: it hardly predicts runs that it has not seen"
    return (
        f"{held.family} of {proposal.runs} trainings (held-out error {held.error:.4f}, rank correlation "
        f"{held.rank_correlation:.2f}{sure}) proposes {mixture_text(problem.weights(proposal.mixture))}: {promise}"
    )


def confirmation_sentence(confirmation: Confirmation) -> str:
    """How a proposal did."""
    parts = [f"{_interval(-one.mean, -one.high, -one.low)} over {name}" for name, one in confirmation.against.items()]
    return f"{'better' if confirmation.better else 'not better'}: gains {', '.join(parts)}"


def mixture_text(weights: Weights) -> str:
    """A mixture in a line."""
    return weights if isinstance(weights, str) else ", ".join(f"{name} {share:.3f}" for name, share in weights.items())


def to_json(problem: Problem, outcome: Outcome) -> dict[str, Any]:
    """All that was found."""
    return {
        "verdict": sentence(problem, outcome),
        "confirmed": outcome.confirmed,
        "best": outcome.best,
        "reference": outcome.reference,
        "lead": _difference(outcome.lead),
        "why": outcome.why,
        "setting": problem.path,
        "domains": problem.domains,
        "natural": problem.weights(problem.natural),
        "bounds": {
            name: [low, high]
            for name, low, high in zip(
                problem.domains, problem.bounds.low.tolist(), problem.bounds.high.tolist(), strict=True
            )
        },
        "rounds": [_round(problem, one) for one in outcome.rounds],
        "surface": surface(problem, outcome),
    }


def surface(problem: Problem, outcome: Outcome) -> list[dict[str, Any]] | None:
    """The last law's objective over all mixtures of three domains within the bounds; None for other numbers."""
    proposals = [one.proposal for one in outcome.rounds if one.proposal]
    if len(problem.domains) != 3 or not proposals:
        return None
    points = _triangle()
    points = points[problem.bounds.hold(points) <= 1e-9]
    values = [problem.score(row) for row in proposals[-1].surface.predict(points)[0]]
    return [
        {"weights": problem.weights(point), "objective": value} for point, value in zip(points, values, strict=True)
    ]


def _triangle() -> Points:
    places = [(i, j, GRID - i - j) for i in range(GRID + 1) for j in range(GRID + 1 - i)]
    return np.asarray(places, np.float64) / GRID


def _round(problem: Problem, one: Round) -> dict[str, Any]:
    confirmation = one.confirmation
    return {
        "proposal": _proposal(problem, one.proposal) if one.proposal else None,
        "confirmation": {
            "better": confirmation.better,
            "against": {name: _difference(found) for name, found in confirmation.against.items()},
        }
        if confirmation
        else None,
    }


def _proposal(problem: Problem, proposal: Proposal) -> dict[str, Any]:
    law = proposal.law
    return {
        "mixture": problem.weights(proposal.mixture),
        "interval": {
            name: [low, high]
            for name, low, high in zip(problem.domains, proposal.low.tolist(), proposal.high.tolist(), strict=True)
        },
        "runs": proposal.runs,
        "predicted": proposal.predicted,
        "gains": {name: [gain.mean, gain.low, gain.high] for name, gain in proposal.gains.items()},
        "family": proposal.choice.family.name,
        "believed": proposal.choice.held_out.believed,
        "held_out": {
            one.family: {
                "error": one.error,
                "explained": one.explained,
                "rank_correlation": one.rank_correlation,
                "p_value": one.p_value,
                "metric_errors": dict(zip(problem.metrics, one.metric_errors, strict=True)),
            }
            for one in proposal.choice.all
        },
        "coefficients": {
            metric: {"floor": float(law.floors[0, row]), "slopes": problem.weights(law.slopes[0, row])}
            for row, metric in enumerate(problem.metrics)
        }
        if law
        else None,
    }


def _difference(one: Difference | None) -> dict[str, Any] | None:
    if one is None:
        return None
    known = one.noise is not None
    return {
        "mean": one.mean,
        "low": one.low if known else None,
        "high": one.high if known else None,
        "noise": one.noise,
        "freedom": one.freedom,
    }


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:.4f} ({low:.4f} to {high:.4f})"
