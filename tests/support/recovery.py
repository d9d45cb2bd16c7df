"""How long a run took to go on, from its records."""

from collections.abc import Iterable, Mapping
from typing import Any


def first_step_s(records: Iterable[Mapping[str, Any]], *, since: float, attempt: int = 0) -> float:
    """Seconds from a moment to the first step that was done after it.

    Args:
        records: Of ``metrics.jsonl``.
        since: The moment, in seconds of ``time.time()``.
        attempt: Only steps of this start or later ones count.
    """
    times = [record["time"] for record in records if record["kind"] == "train" and record["attempt"] >= attempt]
    return round(min(time for time in times if time >= since) - since, 3)
