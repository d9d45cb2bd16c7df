"""A drop of speed: throttled devices, a slow disk, a neighbour that takes the CPUs."""

import statistics
from collections import deque

#: Readings whose median is the normal speed, and how many it takes to know it.
WINDOW, ENOUGH = 20, 5


class SpeedGuard:
    """Compares each reading of the speed with the median of those before it.

    Args:
        factor: Report a reading below this share of the median; 0: never.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._readings: deque[float] = deque(maxlen=WINDOW)
        self._slow = False

    def look(self, tokens_per_s: float) -> str | None:
        """Take a reading.

        Returns:
            What to report: where a slow stretch begins, and where it ends; else None.
        """
        median = statistics.median(self._readings) if len(self._readings) >= ENOUGH else None
        slow = median is not None and tokens_per_s < self._factor * median
        changed, self._slow = slow != self._slow, slow
        if not slow:  # a slow stretch must not become the normal speed
            self._readings.append(tokens_per_s)
        if not changed or median is None:
            return None
        share = f"{tokens_per_s:,.0f} tokens/s, {tokens_per_s / median:.0%} of the median"
        return f"training has become slow: {share}" if slow else f"training is at its usual speed again: {share}"
