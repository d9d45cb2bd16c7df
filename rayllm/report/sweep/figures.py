"""A sweep's numbers as its page draws them; ``templates/sweep.js`` turns them into figures that know each other."""

from typing import Any

from pydantic import JsonValue

from rayllm.report.chart import DIGITS
from rayllm.report.formats import fixed
from rayllm.report.sweep.axes import Axis, axes_of, flat, mixture_of
from rayllm.report.sweep.records import SweepRecords
from rayllm.tune.results import TrialResult

#: Corners of a ternary plot.
CORNERS = 3
#: Share of the tokens after which the heights of curves decide what is shown: before, they all fall steeply.
STEEP_FRAC = 0.4


def figures_of(records: SweepRecords) -> dict[str, Any]:
    """Everything that is drawn, as plain JSON."""
    axes = axes_of(records.results)
    low, high = records.color_range
    return {
        "objective": label_of(records.objective),
        "range": [_rounded(low), _rounded(high)],
        "trials": [_trial(records, result, axes) for result in reversed(records.results)],
        "axes": [{"label": axis.label, "path": axis.path, "ticks": axis.ticks()} for axis in axes],
        "curves": _curves(records),
        "intervals": _intervals(records),
        "ternary": _ternary(records),
    }


def label_of(objective: str) -> str:
    """The objective as people say it."""
    return objective.replace("_", " ")


def _trial(records: SweepRecords, result: TrialResult, axes: list[Axis]) -> dict[str, Any]:
    value = records.value(result)
    return {
        "id": result.trial,
        "name": f"trial {result.trial}",
        "status": result.status,
        "baseline": records.baselines.get(result.group, ""),
        "best": result.group == records.verdict.best,
        "value": None if value is None else _rounded(value),
        "tone": records.tone(value),
        "places": [_place(axis, result) for axis in axes],
        "settings": settings_text(result.settings),
        "curve": [[tokens, _rounded(height)] for tokens, height in records.curve(result)],
    }


def _place(axis: Axis, result: TrialResult) -> float | None:
    place = axis.place(result.settings)
    return None if place is None else round(place, 4)


def settings_text(settings: dict[str, JsonValue]) -> str:
    """Settings in a line, the last part of each path."""
    shown = [f"{path.rpartition('.')[2]} {_text(value)}" for path, value in flat(settings).items()]
    return ", ".join(shown) or "as in the run file"


def _text(value: JsonValue) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _curves(records: SweepRecords) -> dict[str, Any]:
    """What the curves' axes span, and the noise floor above the best."""
    points = [point for result in records.results for point in records.curve(result)]
    if not points:
        return {}
    longest = max(tokens for tokens, _ in points)
    late = sorted(value for tokens, value in points if tokens >= STEEP_FRAC * longest)
    ends = sorted(curve[-1][1] for result in records.results if (curve := records.curve(result)))
    top = max(values[int(0.9 * (len(values) - 1))] for values in (late, ends))
    return {"tokens": longest, "low": _rounded(min(late[0], ends[0])), "high": _rounded(top), "band": _band(records)}


def _band(records: SweepRecords) -> list[float] | None:
    verdict = records.verdict
    best = verdict.contenders[0].mean
    return None if verdict.floor is None else [_rounded(best), _rounded(best + verdict.floor)]


def _intervals(records: SweepRecords) -> list[dict[str, Any]]:
    """The contenders with their intervals, best first."""
    return [
        {
            "id": one.trial,
            "name": f"trial {one.trial}" + (f", {one.baseline}" if one.baseline else ""),
            "baseline": one.baseline,
            "mean": _rounded(one.mean),
            "low": None if one.low is None else _rounded(one.low),
            "high": None if one.high is None else _rounded(one.high),
            "seeds": one.seeds,
            "text": fixed(one.mean, 4),
        }
        for one in records.verdict.contenders
    ]


def _ternary(records: SweepRecords) -> dict[str, Any] | None:
    """Mixtures of three domains; ``None`` for any other number."""
    mixtures = {result.trial: mixture_of(result.settings) for result in records.results}
    domains = next((list(one) for one in mixtures.values() if one and len(one) == CORNERS), None)
    if domains is None:
        return None
    surface = records.surface
    return {
        "domains": domains,
        "points": {
            str(trial): [round(one[name], 4) for name in domains]
            for trial, one in mixtures.items()
            if one and set(one) == set(domains)
        },
        "surface": [
            [*(round(weights[name], 4) for name in domains), records.tone(value)] for weights, value in surface.points
        ]
        if surface
        else [],
        "optimum": [round(surface.optimum[name], 4) for name in domains] if surface and surface.optimum else None,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS + 1}g}")
