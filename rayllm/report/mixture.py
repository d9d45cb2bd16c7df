"""The mixture that was read against the one that was planned."""

from rayllm.data.mixing.weights import PERIOD
from rayllm.report.collect import RunRecords


def realised_tokens(records: RunRecords) -> dict[str, int]:
    """Tokens of each domain that were trained on, as the last ``train`` record counts them."""
    if not records.metrics.train:
        return {}
    last = records.metrics.train[-1]
    found = {key.removeprefix("tokens/"): value for key, value in last.items() if key.startswith("tokens/")}
    return {domain: found[domain] for domain in sorted(found, key=_place(records.domains))}


def planned_tokens(records: RunRecords) -> dict[str, float]:
    """Tokens of each domain that the plan wants in the steps done."""
    if not records.plan or not records.metrics.train:
        return {}
    return planned_until(records, records.metrics.train[-1]["step"])


def planned_until(records: RunRecords, step: int) -> dict[str, float]:
    """Tokens of each domain that the plan wants in the first ``step`` steps."""
    plan = records.plan
    assert plan is not None
    totals = dict.fromkeys(plan.domains, 0.0)
    for stage in plan.stages:
        steps = min(step, stage.steps)
        step -= steps
        for domain, weight in zip(plan.domains, stage.weights, strict=True):
            totals[domain] += steps * stage.step_tokens * weight / PERIOD
    return totals


def weights_over_tokens(records: RunRecords) -> dict[str, list[tuple[float, float]]]:
    """Each domain's weight at the first and the last token of every row of the stage table that was trained on.

    Empty where the weights are the same all the time.
    """
    plan, train = records.plan, records.metrics.train
    if plan is None or not train or len({stage.weights for stage in plan.stages}) == 1:
        return {}
    found: dict[str, list[tuple[float, float]]] = {domain: [] for domain in plan.domains}
    first = 0
    for stage in plan.stages:
        last = min(first + stage.steps, train[-1]["step"])
        for domain, weight in zip(plan.domains, stage.weights, strict=True):
            if last > first:
                found[domain] += [(plan.tokens_before(step), weight / PERIOD) for step in (first, last)]
        first += stage.steps
    return found


def _place(domains: list[str]):
    return lambda name: domains.index(name) if name in domains else len(domains)
