"""Whether a resumed run goes on where it was: its first losses lie among those before the checkpoint.

What a checkpoint's hashes cannot tell: weights or moments that were saved wrong, or put back wrong, train without an
error, from a worse place.
"""

import statistics
from collections.abc import Sequence

#: Steps after a resume whose median is judged, and the losses before it that make the band.
RESUMED_STEPS, BAND_STEPS = 5, 50
#: Losses without which there is no band.
ENOUGH = 10


def describe_break(before: Sequence[float], after: Sequence[float]) -> str | None:
    """Compare the losses after a resume with those before.

    The band is the range of the last losses and half of it, at least a hundredth of the loss, on either side: a loss
    that falls as fast as it did stays within.

    Args:
        before: Finite losses up to the checkpoint, the newest last.
        after: Finite losses of the first steps after it.

    Returns:
        What to report; None where the run goes on as it was, or nothing can be said.
    """
    window = before[-BAND_STEPS:]
    if len(window) < ENOUGH or not after:
        return None
    low, high = min(window), max(window)
    margin = max((high - low) / 2, 0.01 * abs(high))
    loss = statistics.median(after)
    if low - margin <= loss <= high + margin:
        return None
    return (
        f"the first {len(after)} losses after the resume are about {loss:.4f}, outside the {low:.4f} to {high:.4f} of "
        f"the last {len(window)} before it: the data may have changed with a stage; else weights or moments were not "
        "restored as they were"
    )
