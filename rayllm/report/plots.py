"""Records to curves: what the page draws, as plain JSON.

A chart is a list of series over one axis, already thinned and rounded; ``templates/charts.js`` draws it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rayllm.report.collect import RunRecords
from rayllm.report.config import ReportConfig
from rayllm.report.metrics_log import Record
from rayllm.report.mixture import planned_until, weights_over_tokens

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


def all_charts(records: RunRecords, config: ReportConfig) -> dict[str, Chart]:
    """Every chart that the run left numbers for, by key."""
    charts = [
        validation_chart(records, config),
        loss_chart(records, config),
        surprise_chart(records, config),
        *(_train_chart(records, config, *choice) for choice in TRAIN_CHARTS),
        update_ratio_chart(records, config),
        mixture_chart(records, config),
        weights_chart(records, config),
    ]
    return {chart.key: chart for chart in charts if chart is not None}


def validation_chart(records: RunRecords, config: ReportConfig) -> Chart | None:
    """Validation bits per byte of every domain, their mean, and the bigrams to beat."""
    series = _validation_series(records, config, "bits_per_byte", baseline="bigram_bits_per_byte")
    mean = _points(records.metrics.validation, "mean_bits_per_byte", config)
    if len(series) > 1 and len(mean) > 1:
        series.append(Series("mean", mean, color=-1))
    note = "Dotted: a bigram of the same training tokens." if any(s.baseline is not None for s in series) else ""
    return Chart("validation", "Validation", "bits per byte", tuple(series), note=note) if series else None


def surprise_chart(records: RunRecords, config: ReportConfig) -> Chart | None:
    """Surprise ratio of every domain; with one domain it is 1 by definition and says nothing."""
    series = _validation_series(records, config, "surprise_ratio")
    if len(series) < 2:
        return None
    note = "Bits per byte of a domain over the mean of all."
    return Chart("surprise", "Surprise ratio", "ratio", tuple(series), note=note)


def loss_chart(records: RunRecords, config: ReportConfig) -> Chart | None:
    """Training loss, raw and smoothed."""
    raw = _points(records.metrics.train, "loss", config)
    if len(raw) < 2:
        return None
    series = [Series("each record", raw, style="faint")]
    if config.smoothing_frac:
        curve = smooth(_pairs(records.metrics.train, "loss"), config.smoothing_frac)
        series.append(Series("smoothed", thin(curve, config.curve_points)))
    return Chart("loss", "Training loss", "nats per token", tuple(series))


#: Charts of one field of the ``train`` records: key, title, unit, field, format, from zero.
TRAIN_CHARTS: tuple[tuple[str, str, str, str, Literal["number", "count", "percent"], bool], ...] = (
    ("lr", "Learning rate", "step size", "lr", "number", True),
    ("grad_norm", "Gradient norm", "norm before clipping", "grad_norm", "number", True),
    ("throughput", "Throughput", "tokens per second", "tokens_per_s", "count", True),
    ("mfu", "Model FLOPs utilisation", "share of peak", "mfu", "percent", True),
)


def _train_chart(
    records: RunRecords,
    config: ReportConfig,
    key: str,
    title: str,
    unit: str,
    field: str,
    y_format: Literal["number", "count", "percent"],
    from_zero: bool,
) -> Chart | None:
    points = _points(records.metrics.train, field, config)
    if len(points) < 2:
        return None
    return Chart(key, title, unit, (Series(title.lower(), points),), y_format=y_format, from_zero=from_zero)


def update_ratio_chart(records: RunRecords, config: ReportConfig) -> Chart | None:
    """How far each group of parameters moves in a step."""
    names = dict.fromkeys(
        name for record in records.metrics.train for name in record if name.startswith("update_ratio/")
    )
    curves = {name.partition("/")[2]: _points(records.metrics.train, name, config) for name in names}
    series = [Series(name, points, index) for index, (name, points) in enumerate(curves.items()) if len(points) > 1]
    note = "Of a step of each group of parameters."
    return Chart("update_ratio", "Update ratio", "change over weights", tuple(series), note=note) if series else None


def mixture_chart(records: RunRecords, config: ReportConfig) -> Chart | None:
    """Share of each domain in the tokens read so far; dashed: as planned."""
    train, domains = records.metrics.train, records.domains
    if len(train) < 2 or len(domains) < 2:
        return None
    series = []
    for index, domain in enumerate(domains):
        points = [(r["tokens"], r.get(f"tokens/{domain}", 0) / r["tokens"]) for r in train if r["tokens"]]
        series.append(Series(domain, thin(points, config.curve_points), color=index))
    if records.plan:
        for index, domain in enumerate(domains):
            planned = [(r["tokens"], _planned_share(records, r["step"], domain)) for r in train if r["tokens"]]
            series.append(Series(f"{domain}, planned", thin(planned, config.curve_points), index, "dashed"))
    note = "Dashed: as planned." if records.plan else ""
    return Chart(
        "mixture", "Mixture so far", "share of tokens", tuple(series), y_format="percent", from_zero=True, note=note
    )


def weights_chart(records: RunRecords, config: ReportConfig) -> Chart | None:
    """The weight of each domain over the run, where the weights change."""
    curves = weights_over_tokens(records)
    series = [
        Series(name, thin(points, config.curve_points), index) for index, (name, points) in enumerate(curves.items())
    ]
    note = "As the stage table has them: by its stages, by a fork, or moved by an adaptive mixture."
    label = "share of the tokens that are read next"
    chart = Chart("weights", "Weights", label, tuple(series), y_format="percent", from_zero=True, note=note)
    return chart if series else None


def _planned_share(records: RunRecords, step: int, domain: str) -> float:
    planned = planned_until(records, step)
    return planned[domain] / max(sum(planned.values()), 1e-9)


def _validation_series(
    records: RunRecords, config: ReportConfig, measure: str, baseline: str | None = None
) -> list[Series]:
    series = []
    for index, (domain, row) in enumerate(records.scores_after.items()):
        points = _points(records.metrics.validation, f"{measure}/{domain}", config)
        if len(points) > 1:
            series.append(Series(domain, points, color=index, baseline=row.get(baseline) if baseline else None))
    return series


def _points(history: Sequence[Record], field: str, config: ReportConfig) -> tuple[Point, ...]:
    return thin(_pairs(history, field), config.curve_points)


def _pairs(history: Sequence[Record], field: str) -> list[Point]:
    """(tokens, value) of the records that have a finite value."""
    found = ((record.get("tokens"), record.get(field)) for record in history)
    return [(x, y) for x, y in found if x is not None and y is not None and math.isfinite(y)]


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
