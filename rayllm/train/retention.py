"""Which checkpoints to keep: the last few, the best, and those that a person pinned."""

import math
from collections.abc import Mapping

from rayllm.core.checkpoint import (
    Best,
    CheckpointRef,
    is_pinned,
    list_checkpoints,
    read_best,
    remove_checkpoint,
    write_best,
)
from rayllm.core.errors import ConfigError
from rayllm.train.config import BestConfig


def judge(config: BestConfig, metrics: Mapping[str, float]) -> float:
    """The value by which checkpoints are compared.

    Raises:
        ConfigError: If the metric is not among those of the validation.
    """
    if config.metric not in metrics:
        raise ConfigError(
            "the best checkpoint is to be chosen by a metric that validation does not give",
            where="train.checkpoint.best.metric",
            why=f"`{config.metric}` is not among {', '.join(sorted(metrics))}",
            fix="name one of them, or set train.checkpoint.best to null",
        )
    return metrics[config.metric]


def note_best(checkpoints: str, step: int, config: BestConfig, value: float) -> bool:
    """Remember the checkpoint of a step if it is the best so far.

    One that was judged otherwise before does not count, nor one that is gone or damaged.

    Args:
        checkpoints: URI of a run's ``checkpoints/``.
        step: Whose checkpoint was judged; of several starts, the latest one's.
        config: The metric, and whether lower or higher is better.
        value: What ``judge`` gave; one that is not finite is never the best.
    """
    there = list_checkpoints(checkpoints)
    names = [_name(ref) for ref in there if ref.step == step]
    if not names or not math.isfinite(value):
        return False
    best = read_best(checkpoints)
    if best is not None and best.name in map(_name, there) and (best.metric, best.mode) == (config.metric, config.mode):
        better = value < best.value if config.mode == "min" else value > best.value
        if not better:
            return False
    write_best(checkpoints, Best(name=names[-1], metric=config.metric, mode=config.mode, value=value))
    return True


def beyond_what_is_kept(
    checkpoints: str, keep_last: int, *, keep_best: bool, margin_steps: int | None = None
) -> list[str]:
    """URIs of the checkpoints that need not stay, oldest first; those set aside stay, and make up for no whole one.

    Args:
        checkpoints: URI of a run's ``checkpoints/``.
        keep_last: So many of the newest stay; so do pinned ones.
        keep_best: The best one stays.
        margin_steps: The newest of those that are at least so many steps older than the last stays, for a roll-back.
    """
    refs = list_checkpoints(checkpoints)
    best = read_best(checkpoints) if keep_best else None
    old = [] if margin_steps is None else [ref for ref in refs if ref.step <= refs[-1].step - margin_steps]
    return [
        ref.uri
        for ref in refs[:-keep_last]
        if not (best and ref.uri.endswith("/" + best.name)) and ref not in old[-1:] and not is_pinned(ref.uri)
    ]


def prune(checkpoints: str, keep_last: int, *, keep_best: bool, margin_steps: int | None = None) -> list[str]:
    """Delete what ``beyond_what_is_kept`` names.

    Returns:
        The URIs deleted, oldest first.
    """
    doomed = beyond_what_is_kept(checkpoints, keep_last, keep_best=keep_best, margin_steps=margin_steps)
    for uri in doomed:
        remove_checkpoint(uri)
    return doomed


def _name(ref: CheckpointRef) -> str:
    return ref.uri.rpartition("/")[2]
