"""The metrics of a run, as one history.

In: ``metrics.jsonl``, to which every attempt of a run has appended. Out: its records by kind, in the order of steps,
each step once. Of an attempt that failed, the steps after its last used checkpoint were done again by a later attempt:
those lines are dropped; what is not drawn over steps (events) stays.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rayllm.core import storage

Record = dict[str, Any]


@dataclass(frozen=True)
class MetricsLog:
    """Records of one run by kind, ordered by step; see ``docs/design.md`` for their fields.

    Attributes:
        train: Loss, learning rate, tokens and the rest.
        validation: Scores by domain.
        samples: Texts written during training.
        events: Warnings and restarts, of all attempts.
        unreadable: Lines that are not JSON, such as one cut off by a crash.
    """

    train: tuple[Record, ...] = ()
    validation: tuple[Record, ...] = ()
    samples: tuple[Record, ...] = ()
    events: tuple[Record, ...] = ()
    unreadable: int = 0

    @property
    def untrained_validation(self) -> Record | None:
        """The scores before the first step, if they were taken."""
        return next((record for record in self.validation if record["step"] == 0), None)


def read_metrics(uri: str) -> MetricsLog:
    """Read a ``metrics.jsonl``."""
    return parse_metrics(storage.read_text(uri))


def parse_metrics(text: str) -> MetricsLog:
    """Read the lines of a ``metrics.jsonl``; see the module's docstring for what is kept."""
    records, unreadable = [], 0
    for line in filter(str.strip, text.split("\n")):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            unreadable += 1
    kept = last_attempts(records)

    def of(kind: str) -> tuple[Record, ...]:
        return tuple(sorted((r for r in kept if r["kind"] == kind), key=lambda r: r["step"]))

    return MetricsLog(of("train"), of("validation"), of("sample"), of("event"), unreadable)


def last_attempts(records: Sequence[Record]) -> list[Record]:
    """Keep one line for each (kind, step, domain), the highest attempt's, and none that a later attempt went over."""
    first_steps: dict[int, int] = {}
    for record in records:
        if record["kind"] == "train":
            attempt, step = record["attempt"], record["step"]
            first_steps[attempt] = min(step, first_steps.get(attempt, step))

    def superseded(record: Record) -> bool:
        return any(attempt > record["attempt"] and record["step"] >= step for attempt, step in first_steps.items())

    newest: dict[tuple[Any, ...], Record] = {}
    events = []
    for record in records:
        if record["kind"] == "event":
            events.append(record)
        elif not superseded(record):
            key = (record["kind"], record["step"], record.get("domain"))
            if key not in newest or record["attempt"] >= newest[key]["attempt"]:
                newest[key] = record
    return [*newest.values(), *events]
