"""Loss spikes: a loss that lies far above those before it."""

import math
import statistics
from collections.abc import Sequence

from rayllm.train.guards.config import SpikesConfig

#: Losses without which nothing can be said.
ENOUGH = 32


def describe_spike(losses: Sequence[float], loss: float, config: SpikesConfig) -> str | None:
    """Compare a loss with the mean of those before it, in standard deviations.

    Args:
        losses: Finite losses before it, the newest last.
        loss: Of the step.
        config: The window and the bound.

    Returns:
        What to report; None where the loss is none, or is not finite, for which there is another answer.

    Source: Groeneveld et al. 2024, OLMo, arXiv:2402.00838, and its trainer: six standard deviations over 128 steps.
    """
    window = losses[-config.window :]
    if not config.z or len(window) < ENOUGH or not math.isfinite(loss):
        return None
    mean, deviation = statistics.fmean(window), statistics.pstdev(window)
    if not loss > mean + config.z * max(deviation, 1e-6 * abs(mean)):
        return None
    distance = (loss - mean) / max(deviation, 1e-12)
    return f"loss {loss:.4f} is {distance:.1f} standard deviations above the last {len(window)}"
