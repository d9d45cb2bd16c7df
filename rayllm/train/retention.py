"""Which checkpoints to keep: the last few and the best; never the one just resumed from while it is the newest."""

from rayllm.core.checkpoint import list_checkpoints, read_best, remove_checkpoint, write_best
from rayllm.train.config import CheckpointConfig

METRIC = "mean_bits_per_byte"


def note_best(checkpoints: str, name: str, value: float) -> bool:
    """Remember a checkpoint if it is the best so far; lower is better."""
    best = read_best(checkpoints)
    if best is not None and best.value <= value:
        return False
    write_best(checkpoints, name, METRIC, value)
    return True


def prune(checkpoints: str, config: CheckpointConfig) -> list[str]:
    """Delete checkpoints beyond the last ``keep_last`` and the best.

    Returns:
        The URIs deleted, oldest first.
    """
    best = read_best(checkpoints) if config.keep_best else None
    refs = list_checkpoints(checkpoints)
    doomed = [ref.uri for ref in refs[: -config.keep_last] if not (best and ref.uri.endswith("/" + best.name))]
    for uri in doomed:
        remove_checkpoint(uri)
    return doomed
