"""The ranking of a sweep as JSON and as a Markdown table."""

from collections.abc import Sequence

from pydantic import JsonValue

from rayllm.tune.results import TrialResult


def to_json(ranked: Sequence[TrialResult], objective: str) -> dict[str, JsonValue]:
    """The ranking as JSON."""
    return {
        "objective": objective,
        "best": ranked[0].trial,
        "trials": [result.model_dump(mode="json") for result in ranked],
    }


def to_markdown(ranked: Sequence[TrialResult], objective: str) -> str:
    """The ranking as a Markdown table: settings, how each ended, objective, bits per byte of each domain, cost."""
    settings = list(dict.fromkeys(path for result in ranked for path in result.settings))
    prefix = "bits_per_byte/"
    domains = [name for name in ranked[0].metrics if name.startswith(prefix) and name != objective]
    costs = ["tokens", "seconds", "device s"]
    header = ["rank", "trial", *map(_cell, settings), objective, *domains, *costs, "status"]
    rows = []
    for place, result in enumerate(ranked, 1):
        values = [show(result.settings[path]) if path in result.settings else "as in the run file" for path in settings]
        scores = [f"{result.metrics[name]:.4f}" if name in result.metrics else "" for name in (objective, *domains)]
        cost = [f"{result.tokens:,}", f"{result.wall_s:.0f}", f"{result.device_s:.0f}"]
        rows.append([str(place), str(result.trial), *values, *scores, *cost, _status(result)])
    rule = ["---"] * len(header)
    return "".join("| " + " | ".join(row) + " |\n" for row in [header, rule, *rows])


def show(value: JsonValue) -> str:
    """A setting for people: weights of a mixture in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {show(item)}" for name, item in value.items())
    return f"{value:.3g}" if isinstance(value, float) else _cell(str(value))


def _status(result: TrialResult) -> str:
    if result.status == "failed":
        return "failed: " + _cell(result.error.splitlines()[0])
    last = f" at step {result.curve[-1].step:,}" if result.status == "stopped" and result.curve else ""
    return result.status + last


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
