"""A chart as plain JSON: a list of series over one axis, already thinned and rounded.

``templates/charts.js`` draws it; ``plots`` says which charts a run has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Point = tuple[float, float]
Style = Literal["line", "faint", "dashed"]
#: Significant digits of a drawn number: far below a pixel.
DIGITS = 6


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: In the legend.
        points: In the order of x.
        color: Index into the page's colours; -1 is the colour of the text.
        style: How it is drawn.
        baseline: A level to compare the curve with, drawn as a dotted line in its colour.
    """

    name: str
    points: tuple[Point, ...]
    color: int = 0
    style: Style = "line"
    baseline: float | None = None


@dataclass(frozen=True)
class Chart:
    """Curves over one axis.

    Attributes:
        key: Name in the page.
        title: What is shown.
        y_label: Quantity and unit of the vertical axis.
        series: The curves.
        x_label: Quantity and unit of the horizontal axis.
        y_format: How values read: ``number``, ``count`` or ``percent``.
        from_zero: Whether the vertical axis begins at 0.
        note: One line below.
    """

    key: str
    title: str
    y_label: str
    series: tuple[Series, ...]
    x_label: str = "training tokens"
    y_format: Literal["number", "count", "percent"] = "number"
    from_zero: bool = False
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """What the script of the page reads."""
        return {
            "key": self.key,
            "title": self.title,
            "x": self.x_label,
            "y": self.y_label,
            "format": self.y_format,
            "zero": self.from_zero,
            "series": [
                {
                    "name": series.name,
                    "color": series.color,
                    "style": series.style,
                    "baseline": series.baseline,
                    "points": [[_rounded(x), _rounded(y)] for x, y in series.points],
                }
                for series in self.series
            ],
        }


def thin(points: Sequence[Point], limit: int) -> tuple[Point, ...]:
    """At most about ``limit`` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= limit:
        return tuple(points)
    stretches = max(1, (limit - 2) // 2)
    kept = [points[0]]
    for index in range(stretches):
        part = points[index * len(points) // stretches : (index + 1) * len(points) // stretches]
        heights = [y for _, y in part]
        kept += [part[i] for i in sorted({heights.index(min(heights)), heights.index(max(heights))})]
    return tuple(dict.fromkeys([*kept, points[-1]]))


def smooth(points: Sequence[Point], half_life_frac: float) -> list[Point]:
    """Exponential moving average over points, from both sides, so that it neither lags nor leans to an end.

    Args:
        points: The curve.
        half_life_frac: Half-life of a point's weight, as a share of the number of points.
    """
    decay = 0.5 ** (1 / max(half_life_frac * len(points), 1e-9))
    heights = [y for _, y in points]
    past, future = _decayed_sums(heights, decay), _decayed_sums(heights[::-1], decay)[::-1]
    return [
        (x, (before[0] + after[0] - y) / (before[1] + after[1] - 1))
        for (x, y), before, after in zip(points, past, future, strict=True)
    ]


def _decayed_sums(values: Sequence[float], decay: float) -> list[tuple[float, float]]:
    """For each place, the sum of the values up to it and of their weights, which fall by ``decay`` at every step."""
    total = weight = 0.0
    sums = []
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        sums.append((total, weight))
    return sums


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
