"""Results of trials that were never trained."""

from rayllm.tune.results import TrialResult, group_of

OBJECTIVE = "mean_bits_per_byte"


def result(trial, score=None, error="", settings=None, **fields):
    """A trial that ended with this mean, and one more bit per byte on code."""
    metrics = {} if score is None else {OBJECTIVE: score, "bits_per_byte/code": score + 1}
    settings = settings or {}
    fields = {"status": "failed" if error else "finished", "wall_s": 3.2, **fields}
    return TrialResult(
        trial=trial,
        key=f"k{trial}",
        settings=settings,
        group=group_of(settings),
        seed=0,
        metrics=metrics,
        error=error,
        **fields,
    )
