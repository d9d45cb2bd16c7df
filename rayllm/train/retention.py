"""Which checkpoints to keep: the last few, the best, and those that a person pinned."""

from rayllm.core.checkpoint import is_pinned, list_checkpoints, read_best, remove_checkpoint, write_best

METRIC = "mean_bits_per_byte"


def note_best(checkpoints: str, name: str, value: float) -> bool:
    """Remember a checkpoint if it is the best so far; lower is better."""
    best = read_best(checkpoints)
    if best is not None and best.value <= value:
        return False
    write_best(checkpoints, name, METRIC, value)
    return True


def beyond_what_is_kept(checkpoints: str, keep_last: int, *, keep_best: bool) -> list[str]:
    """URIs of the checkpoints that are neither pinned, nor the best, nor among the last ``keep_last``; oldest first."""
    best = read_best(checkpoints) if keep_best else None
    return [
        ref.uri
        for ref in list_checkpoints(checkpoints)[:-keep_last]
        if not (best and ref.uri.endswith("/" + best.name)) and not is_pinned(ref.uri)
    ]


def prune(checkpoints: str, keep_last: int, *, keep_best: bool) -> list[str]:
    """Delete what ``beyond_what_is_kept`` names.

    Returns:
        The URIs deleted, oldest first.
    """
    doomed = beyond_what_is_kept(checkpoints, keep_last, keep_best=keep_best)
    for uri in doomed:
        remove_checkpoint(uri)
    return doomed
