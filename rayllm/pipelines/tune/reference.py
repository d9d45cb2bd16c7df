"""The curve of a reference run, from what its training logged."""

import bisect

from rayllm.core import storage
from rayllm.core.artifact import read_artifact
from rayllm.core.errors import DataError
from rayllm.report.metrics_log import MetricsLog, read_metrics
from rayllm.tune.results import Point, finite


def read_curve(uri: str) -> list[Point]:
    """The validations of a finished run.

    Args:
        uri: A ``train`` artifact.

    Raises:
        ArtifactDamaged: If it is no whole artifact.
        DataError: If the run was never validated.
    """
    artifact = read_artifact(uri)
    artifact.verify(deep=True, only="metrics.jsonl")
    curve = curve_of(read_metrics(storage.join(uri, "metrics.jsonl")))
    if not curve:
        raise DataError("the reference run has no validation", where=uri, fix="train it with `train.validation`")
    return curve


def curve_of(log: MetricsLog) -> list[Point]:
    """The validations of a run, each with the tokens read until then.

    Training logs its tokens at some steps; between two of them every step counts alike.
    """
    known = [(0, 0), *((record["step"], record["tokens"]) for record in log.train)]
    return [
        Point(step=record["step"], tokens=_tokens_at(known, record["step"]), metrics=_metrics(record))
        for record in log.validation
    ]


def _metrics(record: dict[str, object]) -> dict[str, float]:
    names = ("bits_per_byte/", "loss/", "mean_")
    return finite({name: value for name, value in record.items() if name.startswith(names)})  # pyright: ignore[reportArgumentType] - JSON


def _tokens_at(known: list[tuple[int, int]], step: int) -> int:
    after = min(bisect.bisect_left(known, (step, 0)), len(known) - 1)
    if known[after][0] == step or after == 0:
        return known[after][1]
    (left, left_tokens), (right, right_tokens) = known[after - 1], known[after]
    return round(left_tokens + (step - left) * (right_tokens - left_tokens) / (right - left))
