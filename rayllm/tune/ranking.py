"""Trials in order of merit."""

from collections.abc import Callable, Sequence

from rayllm.core.errors import RunFailed
from rayllm.tune.results import TrialResult


def rank(results: Sequence[TrialResult], value: Callable[[TrialResult], float]) -> list[TrialResult]:
    """The trials in order of merit: lowest value first, then stopped ones (longest first), failed ones last.

    Replicates stand together, by their mean.

    Args:
        results: In any order.
        value: What to rank by.

    Raises:
        RunFailed: If none came to its end, with the causes.
    """
    finished = [result for result in results if result.status == "finished"]
    stopped = [result for result in results if result.status == "stopped"]
    failed = [result for result in results if result.status == "failed"]
    if not finished:
        causes = dict.fromkeys(f"trial {result.trial}: {result.error.splitlines()[0]}" for result in failed)
        what = "all trials of the sweep failed" if not stopped else "no trial of the sweep came to its end"
        raise RunFailed(what, why="; ".join(list(causes)[:5]))
    groups: dict[str, list[float]] = {}
    for result in finished:
        groups.setdefault(result.group, []).append(value(result))
    means = {group: sum(values) / len(values) for group, values in groups.items()}
    finished.sort(key=lambda result: (means[result.group], result.group, value(result), result.trial))
    stopped.sort(key=lambda result: (-result.tokens, value(result), result.trial))
    return finished + stopped + failed
