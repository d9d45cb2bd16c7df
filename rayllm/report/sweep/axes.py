"""The settings of a sweep as axes: what was varied, and where each trial stands on it.

A mixture is one axis a domain. Numbers that span more than a decade stand on a logarithmic axis, what is no number on
one with a place for each value.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from rayllm.report.formats import significant
from rayllm.tune.results import SEED, TrialResult
from rayllm.tune.tables import show

#: Spread of values from which on an axis is logarithmic.
LOG_SPAN = 10.0


@dataclass(frozen=True)
class Axis:
    """A setting that was varied.

    Attributes:
        path: The dotted setting, with the domain for a mixture.
        kind: How values are placed.
        values: What the axis spans: two ends of a range, or all values.
    """

    path: str
    kind: str
    values: tuple[JsonValue, ...]

    @property
    def label(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]

    def place(self, settings: Mapping[str, JsonValue]) -> float | None:
        """Where settings stand, 0 to 1; ``None`` if they leave this one as it is in the run file."""
        value = flat(settings).get(self.path)
        if value is None:
            return None
        if self.kind == "choice":
            return self.values.index(value) / (len(self.values) - 1)
        low, high, number = (self._scaled(one) for one in (*self.values, value))
        return (number - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Places with the text that stands there."""
        if self.kind == "choice":
            return [(index / (len(self.values) - 1), show(value)) for index, value in enumerate(self.values)]
        return [(0.0, significant(_number(self.values[0]))), (1.0, significant(_number(self.values[1])))]

    def _scaled(self, value: JsonValue) -> float:
        return math.log(_number(value)) if self.kind == "log" else _number(value)


def axes_of(results: Sequence[TrialResult]) -> list[Axis]:
    """An axis for each setting that has more than one value, in the order they came."""
    values: dict[str, list[JsonValue]] = {}
    for result in results:
        for path, value in flat(result.settings).items():
            values.setdefault(path, []).append(value)
    return [_axis(path, found) for path, found in values.items() if any(value != found[0] for value in found)]


def flat(settings: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Settings without the seed, a mixture as one for each domain."""
    found: dict[str, JsonValue] = {}
    for path, value in settings.items():
        if isinstance(value, dict):
            found |= flat({f"{path}.{name}": item for name, item in value.items()})
        elif path != SEED and value is not None:
            found[path] = value
    return found


def mixture_of(settings: Mapping[str, JsonValue]) -> dict[str, float] | None:
    """The first setting that gives weights to domains; ``None`` if there is none."""
    for value in settings.values():
        if isinstance(value, dict) and value and all(_is_number(weight) for weight in value.values()):
            return {name: _number(weight) for name, weight in value.items()}
    return None


def _axis(path: str, values: Sequence[JsonValue]) -> Axis:
    if not all(_is_number(value) for value in values):
        distinct = sorted({str(value): value for value in values}.items())
        return Axis(path, "choice", tuple(value for _, value in distinct))
    low, high = min(map(_number, values)), max(map(_number, values))
    return Axis(path, "log" if low > 0 and high / low >= LOG_SPAN else "linear", (low, high))


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: JsonValue) -> float:
    assert isinstance(value, int | float), f"{value!r} stands on an axis of numbers"
    return float(value)
