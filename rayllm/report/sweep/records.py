"""What the page of a sweep is made of."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rayllm.tune.results import TrialResult
from rayllm.tune.verdict import Verdict

#: The objective of a validation, from its metrics and the tokens read; ``None`` where a metric is missing.
Score = Callable[[Mapping[str, float], int], float | None]
#: Where the colours end: trials beyond this share of all look the same, so that one that diverged hides nothing.
COLORED_FRAC = 0.85


@dataclass(frozen=True)
class Surface:
    """What a law predicts over mixtures of three domains.

    Attributes:
        points: Weights of the domains, with the objective that is predicted there.
        optimum: Weights of the proposal; ``None`` if there is none.
    """

    points: tuple[tuple[Mapping[str, float], float], ...]
    optimum: Mapping[str, float] | None = None


@dataclass(frozen=True)
class SweepRecords:
    """A sweep, as its page reads it.

    Attributes:
        name: Of the run.
        objective: Expression that it minimises.
        score: The same as a function.
        results: Its trials, in order of merit; at least one came to its end.
        verdict: What they show.
        baselines: Name of each baseline, by group.
        surface: What a law predicts, if one was fitted.
        shares: Of trials that are forks, by number: what each cost as a share of a whole run.
        best_uri: The run file with the best settings.
        created: When the page was made, ISO 8601; empty if not known.
        per_hour: Price of a device for an hour, where one is known.
        begun: Step at which trials began from a trained model; ``None`` where they began untrained.
    """

    name: str
    objective: str
    score: Score
    results: Sequence[TrialResult]
    verdict: Verdict
    baselines: Mapping[str, str]
    surface: Surface | None = None
    shares: Mapping[int, float] = field(default_factory=dict)
    best_uri: str = ""
    created: str = ""
    per_hour: float | None = None
    begun: int | None = None

    def value(self, result: TrialResult) -> float | None:
        """The objective at a trial's last validation; ``None`` if it failed."""
        return self.score(result.metrics, result.tokens) if result.metrics and result.status != "failed" else None

    def curve(self, result: TrialResult) -> list[tuple[int, float]]:
        """The objective of a trial by tokens, from its first tokens on where it had any: what an untrained model scores
        would be a line across the figure in a trial that was judged once more only at its end."""
        trained = [point for point in result.curve if point.tokens] or result.curve
        scored = ((point.tokens, self.score(point.metrics, point.tokens)) for point in trained)
        return [(tokens, value) for tokens, value in scored if value is not None]

    @property
    def finished(self) -> list[TrialResult]:
        """Trials that came to their end."""
        return [result for result in self.results if result.status == "finished"]

    @property
    def color_range(self) -> tuple[float, float]:
        """The objective that has the best colour, and the one from which on all have the worst."""
        compared = self.finished if len(self.finished) > 2 else self.results
        values = sorted(value for result in compared if (value := self.value(result)) is not None)
        return values[0], values[min(len(values) - 1, math.ceil(COLORED_FRAC * (len(values) - 1)))]

    def tone(self, value: float | None) -> float | None:
        """Place of an objective between the best colour, 0, and the worst, 1."""
        if value is None:
            return None
        low, high = self.color_range
        return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.0
