"""The mixture that was trained on against the one that was planned, both in tokens that count in the loss."""

from collections.abc import Mapping

from rayllm.data.mixing.plan import Plan
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
    """Tokens of each domain that the plan wants in the steps done; empty where that is not known."""
    plan, learnt = records.plan, learnt_fracs(records)
    if plan is None or not learnt or not records.metrics.train:
        return {}
    return planned_until(plan, learnt, records.metrics.train[-1]["step"])


def planned_until(plan: Plan, learnt: Mapping[str, float], step: int) -> dict[str, float]:
    """Tokens of each domain that the plan wants to count in the loss of the first ``step`` steps.

    The plan gives each domain a share of the rows; padding is not foreseen.

    Args:
        plan: The weights and rows of every step.
        learnt: The share of each domain's tokens that is learnt.
        step: Steps done.
    """
    totals = dict.fromkeys(plan.domains, 0.0)
    for stage in plan.stages:
        steps = min(step, stage.steps)
        step -= steps
        for domain, weight in zip(plan.domains, stage.weights, strict=True):
            totals[domain] += steps * stage.step_tokens * weight / PERIOD * learnt[domain]
    return totals


def learnt_fracs(records: RunRecords) -> dict[str, float]:
    """The share of each domain's training tokens that is learnt.

    Empty where it is not known: without packed data, or where one shard holds conversations and texts, for of these
    only the conversations' tokens are counted.
    """
    found = {}
    for domain, shards in (records.packed.splits.get("train", {}) if records.packed else {}).items():
        if any(one.conversations and not one.is_chat for one in shards):
            return {}
        learnt = sum(one.conversations.learnt_tokens if one.conversations else one.tokens for one in shards)
        found[domain] = learnt / max(sum(one.tokens for one in shards), 1)
    return found


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
