"""A drop of speed: throttled devices, a slow disk, a neighbour that takes the CPUs."""

import statistics
from collections import deque

#: Readings whose median is the normal speed, and how many it takes to know it.
WINDOW, ENOUGH = 20, 5
#: Slow readings in a row that make a slow stretch; one alone may be a pause for something else.
PATIENCE = 3


class SpeedGuard:
    """Compares each reading of the speed with the median of those before it.

    Args:
        factor: Report a reading below this share of the median; 0: never.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._readings: deque[float] = deque(maxlen=WINDOW)
        self._slow_in_a_row = 0

    def look(self, tokens_per_s: float) -> str | None:
        """Take a reading.

        Args:
            tokens_per_s: Tokens of whole rows: how many of them are masked says nothing of the machine.

        Returns:
            What to report: where a slow stretch begins, and where it ends; else None.
        """
        median = statistics.median(self._readings) if len(self._readings) >= ENOUGH else None
        if median is None or tokens_per_s >= self._factor * median:
            ended = self._slow_in_a_row >= PATIENCE
            self._slow_in_a_row = 0
            self._readings.append(tokens_per_s)  # a slow stretch must not become the normal speed
            return f"training is at its usual speed again: {tokens_per_s:,.0f} tokens/s" if ended else None
        self._slow_in_a_row += 1
        if self._slow_in_a_row != PATIENCE:
            return None
        return f"training has become slow: {tokens_per_s:,.0f} tokens/s, {tokens_per_s / median:.0%} of the median"
