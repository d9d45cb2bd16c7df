import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.core.artifact import Artifact
from rayllm.report.chart import smooth, thin
from rayllm.report.collect import RunRecords, collect
from rayllm.report.config import ReportConfig
from rayllm.report.metrics_log import MetricsLog
from rayllm.report.plots import all_charts

heights = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300)


@given(heights, st.integers(10, 60))
def test_thinning_keeps_both_ends_the_extremes_and_the_order(values: list[float], limit: int) -> None:
    points = [(float(x), y) for x, y in enumerate(values)]
    kept = thin(points, limit)
    assert len(kept) <= limit
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert {min(values), max(values)} <= {y for _, y in kept}
    assert list(kept) == sorted(kept)
    assert set(kept) <= set(points)


@given(heights, st.floats(0.001, 0.4))
def test_smoothing_stays_within_the_values(values: list[float], half_life: float) -> None:
    points = [(float(x), y) for x, y in enumerate(values)]
    smoothed = smooth(points, half_life)
    assert [x for x, _ in smoothed] == [x for x, _ in points]
    assert all(min(values) - 1e-3 <= y <= max(values) + 1e-3 for _, y in smoothed)


def test_smoothing_leaves_a_line_in_place_and_does_not_lag() -> None:
    line = [(float(x), 2.0 * x) for x in range(101)]
    assert smooth(line, 0.02)[50][1] == pytest.approx(100.0)
    assert smooth([(0.0, 3.0)] * 5, 0.1)[2][1] == pytest.approx(3.0)


def test_every_curve_of_a_run_is_drawn_from_its_records(fake_run: dict[str, Artifact]) -> None:
    records = collect("quickstart", fake_run)
    charts = all_charts(records, ReportConfig())
    expected = {"validation", "loss", "surprise", "lr", "grad_norm", "update_ratio", "throughput", "mixture"}
    assert set(charts) == expected
    assert [series.name for series in charts["update_ratio"].series] == ["matrices", "embedding"]
    english = charts["validation"].series[0]
    assert (english.name, english.baseline) == ("english", 2.83)
    assert english.points[0] == (0, pytest.approx(3.42))
    assert english.points[-1][0] == records.metrics.train[-1]["tokens"]
    assert [series.name for series in charts["validation"].series] == ["english", "math", "code", "mean"]


def test_pairs_of_replies_are_drawn_by_domain_beside_the_training(fake_run: dict[str, Artifact]) -> None:
    records = collect("quickstart", fake_run)
    history = tuple(
        {**record, "margin/math": place * 0.1, "accuracy/math": 0.5, "likelier/math": 0.4, "mean_chosen_reward": 0.1}
        | {"mean_rejected_reward": -0.1}
        for place, record in enumerate(records.metrics.validation)
    )
    steps = tuple({**record, "margin": 0.2, "accuracy": 0.6} for record in records.metrics.train)
    compared = dataclasses.replace(records, metrics=MetricsLog(train=steps, validation=history))
    assert all_charts(records, ReportConfig())["loss"].y_label == "nats per token"
    charts = all_charts(compared, ReportConfig())
    assert charts["loss"].y_label == "nats per pair"
    assert [(one.name, one.color) for one in charts["margin"].series] == [("training", -1), ("math", 1)]
    assert charts["margin"].series[1].points[:2] == ((0, 0.0), (50 * 16_384, 0.1))
    assert [one.name for one in charts["accuracy"].series] == ["training", "math"]
    assert charts["accuracy"].y_format == "percent"
    assert [one.name for one in charts["likelier"].series] == ["math"]
    assert [one.points[0][1] for one in charts["rewards"].series] == [0.1, -0.1]


def test_values_that_are_missing_leave_a_gap_and_no_error(fake_run: dict[str, Artifact]) -> None:
    records = collect("quickstart", fake_run)
    assert any(record["grad_norm"] is None for record in records.metrics.train)
    points = all_charts(records, ReportConfig())["grad_norm"].series[0].points
    assert len(points) == sum(record["grad_norm"] is not None for record in records.metrics.train)


def test_realised_shares_are_drawn_against_the_plan(fake_run: dict[str, Artifact]) -> None:
    chart = all_charts(collect("quickstart", fake_run), ReportConfig())["mixture"]
    by_name = {series.name: series.points[-1][1] for series in chart.series}
    assert by_name["english"] == pytest.approx(by_name["english, planned"], abs=0.01)
    assert sum(value for name, value in by_name.items() if "planned" in name) == pytest.approx(1.0)


def test_weights_that_change_are_drawn_step_by_step(fake_run: dict[str, Artifact]) -> None:
    records = collect("quickstart", fake_run)
    assert records.plan is not None
    assert "weights" not in all_charts(records, ReportConfig())
    whole = records.plan.stages[0]
    rows = [
        dataclasses.replace(whole, steps=whole.steps // 2, weights=(512, 256, 256)),
        dataclasses.replace(whole, steps=whole.steps - whole.steps // 2, weights=(256, 512, 256)),
    ]
    moved = dataclasses.replace(records, plan=dataclasses.replace(records.plan, stages=tuple(rows)))
    chart = all_charts(moved, ReportConfig())["weights"]
    half = whole.steps // 2 * whole.step_tokens
    assert chart.series[0].points[:3] == ((0, 0.5), (half, 0.5), (half, 0.25))
    assert [series.points[-1][1] for series in chart.series] == [0.25, 0.5, 0.25]


def test_a_run_without_records_has_no_charts() -> None:
    assert all_charts(RunRecords(name="empty"), ReportConfig()) == {}


def test_curves_are_thinned_to_the_limit_of_the_config(fake_run: dict[str, Artifact]) -> None:
    charts = all_charts(collect("quickstart", fake_run), ReportConfig(curve_points=20))
    assert all(len(series.points) <= 20 for chart in charts.values() for series in chart.series)
