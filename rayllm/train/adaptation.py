"""A mixture that moves: what a validation says becomes the weights of the steps that follow.

In: the metrics of a validation, the same on every rank. Out: a move in the run's state, which is in every checkpoint,
and a table with a row more. Nothing here is random: a resumed run makes the same moves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayllm.data.mixing.adaptive import Curve, Move, at_tokens, draws, move_plan, next_shares
from rayllm.data.mixing.adaptive_config import AdaptiveConfig
from rayllm.data.mixing.plan import Plan
from rayllm.data.mixing.weights import PERIOD
from rayllm.train.state import RunState

#: Decimals of an excess that count: its last digits depend on the number of ranks, and the weights should not.
DECIMALS = 3


def moves_of(mixture: Mapping[str, Any]) -> list[Move]:
    """The moves in ``RunState.mixture``."""
    return [Move(step, tuple(weights)) for step, weights in mixture.get("moves", [])]


@dataclass
class Adaptation:
    """Moves the weights of a run.

    Attributes:
        config: How.
        curves: Of each validation domain that speaks for a training domain: the reference's bits per byte by tokens.
        speaks_for: The training domain of each of them.
        plan: The table as it is now.
        turn: Told each new table.
    """

    config: AdaptiveConfig
    curves: Mapping[str, Curve]
    speaks_for: Mapping[str, str]
    plan: Plan
    turn: Callable[[Plan], None]

    def describe(self) -> list[str]:
        """What moves and what does not, for the record."""
        moving = set(self.speaks_for.values())
        kept = [name for name in self.plan.domains if name not in moving]
        lines = [f"the weights of {', '.join(sorted(moving))} move with their excess over the reference"]
        if kept:
            lines[0] += f"; no validation speaks for {', '.join(kept)}: there they stay"
        last = min(curve[-1][0] for curve in self.curves.values())
        if 0 < last < self.plan.total_tokens:
            lines.append(
                f"the reference ends at {last:,.0f} tokens, this run at {self.plan.total_tokens:,}: past there its "
                "last validation counts"
            )
        return lines

    def look(self, state: RunState, metrics: Mapping[str, float]) -> dict[str, Any] | None:
        """Take in a validation, once, and move the weights where one is due.

        Args:
            state: The run's; its ``mixture`` is replaced.
            metrics: Of the validation after ``state.step`` steps.

        Returns:
            The fields of a record, where the weights have moved.
        """
        held = dict(state.mixture)
        if state.step in (0, held.get("step"), self.plan.total_steps):
            return None
        held["step"] = state.step
        held["validations"] = held.get("validations", 0) + 1
        held["excess"] = excess = self._smoothed(held.get("excess", {}), self._excess(state.tokens, metrics))
        state.mixture = held
        if held["validations"] % self.config.every:
            return None
        _, row, _ = self.plan.at(state.step)
        now = {name: weight / PERIOD for name, weight in zip(self.plan.domains, row.weights, strict=True)}
        held["shares"] = shares = next_shares(held.get("shares", now), excess, self.config)
        weights = draws(shares)
        if weights != row.weights:
            held["moves"] = [*held.get("moves", []), [state.step, list(weights)]]
            self.plan = move_plan(self.plan, [Move(state.step, weights)])
            self.turn(self.plan)
        return self._record(weights, excess)

    def _excess(self, tokens: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Of each training domain: bits per byte above the reference, the mean of those that speak for it."""
        found: dict[str, list[float]] = {}
        for name, domain in self.speaks_for.items():
            above = metrics[f"bits_per_byte/{name}"] - at_tokens(self.curves[name], tokens)
            found.setdefault(domain, []).append(above)
        return {domain: round(sum(values) / len(values), DECIMALS) for domain, values in found.items()}

    def _smoothed(self, before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
        """Excess below 0 counts as none, and one validation for a part only."""
        kept = self.config.smoothing
        clipped = {domain: max(value, 0.0) for domain, value in now.items()}
        return {domain: kept * before.get(domain, value) + (1 - kept) * value for domain, value in clipped.items()}

    def _record(self, weights: Sequence[int], excess: Mapping[str, float]) -> dict[str, Any]:
        shares = {
            f"weight/{name}": round(weight / PERIOD, 6) for name, weight in zip(self.plan.domains, weights, strict=True)
        }
        return {**shares, **{f"excess/{name}": round(value, 6) for name, value in excess.items()}}

    def tell(self, fields: Mapping[str, Any]) -> str:
        """A move for the console."""
        parts = [
            f"{name} {fields[f'weight/{name}']:.1%}"
            + (f" (excess {fields[f'excess/{name}']:.3f})" if f"excess/{name}" in fields else "")
            for name in self.plan.domains
        ]
        return f"mixture from the next step on: {', '.join(parts)}"
