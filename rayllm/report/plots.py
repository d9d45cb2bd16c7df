"""Records to curves: what the page draws."""

import math
from collections.abc import Sequence
from typing import Literal

from rayllm.report.chart import Chart, Point, Series, smooth, thin
from rayllm.report.collect import RunRecords
from rayllm.report.config import ReportConfig
from rayllm.report.metrics_log import Record
from rayllm.report.mixture import learnt_fracs, planned_until, weights_over_tokens


def all_charts(records: RunRecords, config: ReportConfig) -> dict[str, Chart]:
    """Every chart that the run left numbers for, by key."""
    charts = [
        validation_chart(records, config),
        loss_chart(records, config),
        surprise_chart(records, config),
        *(_train_chart(records, config, *choice) for choice in TRAIN_CHARTS),
        *(_preference_chart(records, config, *choice) for choice in PREFERENCE_CHARTS),
        rewards_chart(records, config),
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
    """Training loss, raw and smoothed: of tokens, or of pairs of replies."""
    raw = _points(records.metrics.train, "loss", config)
    if len(raw) < 2:
        return None
    series = [Series("each record", raw, style="faint")]
    if config.smoothing_frac:
        curve = smooth(_pairs(records.metrics.train, "loss"), config.smoothing_frac)
        series.append(Series("smoothed", thin(curve, config.curve_points)))
    unit = "nats per pair" if "margin" in records.metrics.train[-1] else "nats per token"
    return Chart("loss", "Training loss", unit, tuple(series))


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


#: Charts of pairs of replies: key and measure, title, unit, format, and whether the training's own curve is drawn too.
PREFERENCE_CHARTS: tuple[tuple[str, str, str, Literal["number", "percent"], bool], ...] = (
    ("margin", "Reward margin", "chosen over rejected, held-out pairs", "number", True),
    ("accuracy", "Accuracy", "share of held-out pairs whose margin is positive", "percent", True),
    ("likelier", "Chosen is likelier", "share of held-out pairs, whatever the reference says", "percent", False),
)


def _preference_chart(
    records: RunRecords,
    config: ReportConfig,
    key: str,
    title: str,
    unit: str,
    y_format: Literal["number", "percent"],
    with_training: bool,
) -> Chart | None:
    series = _validation_series(records, config, key)
    training = _points(records.metrics.train, key, config)
    if not series:
        return None
    if with_training and len(training) > 1:
        series.insert(0, Series("training", training, color=-1, style="faint"))
    return Chart(key, title, unit, tuple(series), y_format=y_format)


def rewards_chart(records: RunRecords, config: ReportConfig) -> Chart | None:
    """Mean rewards of both replies: a margin may grow while both become less likely."""
    names = {"chosen": "mean_chosen_reward", "rejected": "mean_rejected_reward"}
    curves = {name: _points(records.metrics.validation, field, config) for name, field in names.items()}
    series = [Series(name, points, index) for index, (name, points) in enumerate(curves.items()) if len(points) > 1]
    note = "Beta times the change of a reply's log-probability against the reference."
    return Chart("rewards", "Rewards", "mean of held-out pairs", tuple(series), note=note) if series else None


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
    """Share of each domain in the tokens that counted in the loss so far; dashed: as planned, where that is known."""
    train, domains = records.metrics.train, records.domains
    if len(train) < 2 or len(domains) < 2:
        return None
    series = []
    for index, domain in enumerate(domains):
        points = [(r["tokens"], r.get(f"tokens/{domain}", 0) / r["tokens"]) for r in train if r["tokens"]]
        series.append(Series(domain, thin(points, config.curve_points), color=index))
    plan, learnt = records.plan, learnt_fracs(records)
    if plan is not None and learnt:
        planned = [(r["tokens"], planned_until(plan, learnt, r["step"])) for r in train if r["tokens"]]
        for index, domain in enumerate(domains):
            points = [(tokens, counts[domain] / max(sum(counts.values()), 1e-9)) for tokens, counts in planned]
            series.append(Series(f"{domain}, planned", thin(points, config.curve_points), index, "dashed"))
    note = "Dashed: as planned." if plan is not None and learnt else ""
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
