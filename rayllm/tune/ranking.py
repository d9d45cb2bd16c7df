"""Trials in order of merit."""

from collections.abc import Sequence

from rayllm.core.errors import RunFailed
from rayllm.tune.results import TrialResult


def rank(results: Sequence[TrialResult], objective: str) -> list[TrialResult]:
    """The trials in order of merit: lowest objective first, then stopped ones (longest first), failed ones last.

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
    finished.sort(key=lambda result: (result.metrics[objective], result.trial))
    stopped.sort(key=lambda result: (-result.tokens, result.metrics.get(objective, float("inf")), result.trial))
    return finished + stopped + failed
