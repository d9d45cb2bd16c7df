"""The ranking of a sweep as JSON and as a Markdown table."""

import math
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from rayllm.tune.forgetting import changes, in_words, most_forgotten
from rayllm.tune.objective import Objective
from rayllm.tune.results import TrialResult

#: Measures of a validation that tables have for every domain, each with its heading.
SHOWN = {"bits_per_byte": "Bits per byte", "accuracy": "Accuracy"}


def to_json(
    ranked: Sequence[TrialResult], objective: Objective, per_hour: float | None = None, begun: int | None = None
) -> dict[str, JsonValue]:
    """The ranking as JSON: each trial as in the ledger, with its ``value`` and what it cost.

    Args:
        ranked: Best first.
        objective: What was lowered.
        per_hour: Price of a device for an hour, where one is known.
        begun: Step at which trials began from a trained model; each then has its ``change_by_domain`` since.
    """

    def changed(result: TrialResult) -> dict[str, JsonValue]:
        found = {} if begun is None else changes(result, begun)
        return {"change_by_domain": {name: round(change, 6) for name, change in found.items()}} if found else {}

    def prices(*results: TrialResult) -> dict[str, float]:
        return {} if per_hour is None else {"price": round(sum(one.price(per_hour) for one in results), 4)}

    return {
        "objective": objective.expression,
        "best": ranked[0].trial,
        "device_s": round(sum(result.device_s for result in ranked), 3),
        **prices(*ranked),
        "trials": [
            {
                **result.model_dump(mode="json"),
                "value": _value(result, objective),
                "device_s": round(result.device_s, 3),
                **prices(result),
                **changed(result),
            }
            for result in ranked
        ],
    }


def to_markdown(
    ranked: Sequence[TrialResult],
    objective: Objective,
    shares: Mapping[int, float] | None = None,
    per_hour: float | None = None,
    begun: int | None = None,
) -> str:
    """The ranking as a Markdown table: objective, measures of each domain, settings, cost, how each ended.

    Args:
        ranked: Best first.
        objective: What was lowered.
        shares: Of trials that are forks, by number: what each cost as a share of a whole run.
        per_hour: Price of a device for an hour, where one is known.
        begun: Step at which trials began from a trained model; the table then says what they have forgotten of it.
    """
    settings = list(dict.fromkeys(path for result in ranked for path in result.settings))
    domains = [name for name in shown(ranked[:1]) if name != objective.expression]
    forgotten = ["forgotten"] if begun is not None else []
    costs = ["tokens", "seconds", "device s", *(["price"] if per_hour is not None else [])]
    costs += ["of a run"] if shares else []
    header = [
        "rank",
        "trial",
        _cell(objective.expression),
        *domains,
        *forgotten,
        *map(_cell, settings),
        *costs,
        "status",
    ]
    rows = []
    for place, result in enumerate(ranked, 1):
        values = [show(result.settings[path]) if path in result.settings else "as in the run file" for path in settings]
        scores = [f"{result.metrics[name]:.4f}" if name in result.metrics else "" for name in domains]
        value = _value(result, objective)
        scores.insert(0, "" if value is None else f"{value:.4f}")
        scores += [in_words(most_forgotten(result, begun))] if begun is not None else []
        cost = [f"{result.tokens:,}", f"{result.wall_s:.0f}", f"{result.device_s:.0f}"]
        cost += [f"{result.price(per_hour):.2f}"] if per_hour is not None else []
        cost += [f"{shares[result.trial]:.0%}" if result.trial in shares else ""] if shares else []
        rows.append([str(place), str(result.trial), *scores, *values, *cost, _status(result)])
    rule = ["---"] * len(header)
    return "".join("| " + " | ".join(row) + " |\n" for row in [header, rule, *rows])


def shown(results: Sequence[TrialResult]) -> list[str]:
    """Metrics of some trials that tables have a column for, such as ``bits_per_byte/code``."""
    names = dict.fromkeys(name for result in results for name in result.metrics)
    return [name for measure in SHOWN for name in names if name.startswith(f"{measure}/")]


def _value(result: TrialResult, objective: Objective) -> float | None:
    value = objective.of(result)
    return value if math.isfinite(value) and result.status != "failed" else None


def show(value: JsonValue) -> str:
    """A setting for people: weights of a mixture, and what a list holds, in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {show(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(show, value))
    return f"{value:.3g}" if isinstance(value, float) else _cell(str(value))


def _status(result: TrialResult) -> str:
    if result.status == "failed":
        return "failed: " + _cell(result.error.splitlines()[0])
    last = f" at step {result.curve[-1].step:,}" if result.status == "stopped" and result.curve else ""
    return result.status + last


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
