"""What a sweep may claim, as data; ``verdict_text`` says it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

#: ``winner``: better than everything else that was judged. ``tied``: the first ones cannot be told apart, or not from a
#: baseline, or a baseline was not trained to its end. ``baseline``: a baseline is first. ``unknown``: there is no noise
#: floor to judge by.
Kind = Literal["winner", "tied", "baseline", "unknown"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Contender(_Value):
    """Settings that were judged.

    Attributes:
        group: Key of the settings.
        trial: Number of the first trial with these settings.
        trials: Numbers of the trials that count.
        baseline: Its name, if it is a baseline; else empty.
        mean: Mean of the objective over the seeds that count.
        low: Lower end of the mean's interval; ``None`` without a noise floor.
        high: Upper end.
        seeds: How many seeds count.
        failed: How many of its trials failed; settings that fail now and then cannot win.
    """

    group: str
    trial: int
    trials: list[int]
    baseline: str
    mean: float
    low: float | None
    high: float | None
    seeds: int
    failed: int

    @property
    def name(self) -> str:
        """For a sentence."""
        return f"the baseline ({self.baseline}, trial {self.trial})" if self.baseline else f"trial {self.trial}"


class Lead(_Value):
    """How far the best is ahead of another contender.

    Attributes:
        over: Group of the other.
        lead: Difference of the means; positive where the best is lower.
        margin: What chance alone may give.
    """

    over: str
    lead: float
    margin: float

    @property
    def clear(self) -> bool:
        """Whether it is more than chance gives."""
        return self.lead > self.margin


class Change(_Value):
    """A metric of the best against the first baseline: what was learnt, what was forgotten.

    Attributes:
        metric: Such as ``bits_per_byte/code``.
        best: Its mean over the seeds of the best.
        baseline: Its mean over the seeds of the baseline.
        margin: What chance alone may give.
    """

    metric: str
    best: float
    baseline: float
    margin: float

    @property
    def worse(self) -> bool:
        """Whether the best has lost here what noise does not explain."""
        return self.best - self.baseline > self.margin


class Verdict(_Value):
    """What the sweep has shown.

    Attributes:
        kind: How it ended.
        sentence: The whole of it for a reader.
        best: Group of the best contender: the winner, or the lowest of those that are tied.
        trial: Number of its first trial.
        level: Chance to name a winner where there is none.
        sd: Standard deviation of one trial over seeds; ``None`` if no settings have two.
        degrees: Degrees of freedom of ``sd``.
        floor: The noise floor: least lead of the best over the next that counts; ``None`` if not known.
        contenders: Best first.
        leads: Of the best over the others, in their order.
        changes: Metrics of the domains against the first baseline.
        notes: What a reader should know beside it.
    """

    kind: Kind
    sentence: str
    best: str
    trial: int
    level: float
    sd: float | None = None
    degrees: int = 0
    floor: float | None = None
    contenders: list[Contender]
    leads: list[Lead] = []
    changes: list[Change] = []
    notes: list[str] = []

    @property
    def mean(self) -> float:
        """Mean objective of the best."""
        return self.contenders[0].mean
