"""The table of faults: what was done to a run, what followed, how long it took to go on; printed after the tests.

A test that injects a fault says so: ``@pytest.mark.fault("P4", "a byte flipped", "the one before it is taken")``.
Where a run had to go on after it, the test adds ``record_property(RECOVERY, seconds)``: from the fault to the first new
step. Rows travel in the reports of the tests, so those of other processes (pytest-xdist) arrive too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest

MARKER = "fault"
RECOVERY = "recovery_s"


@dataclass
class Row:
    """One fault and what the tests saw of it; cases of one fault share a row.

    Attributes:
        passed: Cases in which what should follow followed.
        failed: Cases in which it did not.
        recovery_s: Seconds to the first new step, of the cases that measured them.
    """

    passed: int = 0
    failed: int = 0
    recovery_s: list[float] = field(default_factory=list)


Key = tuple[str, str, str]


def declare(items: Iterable[pytest.Item]) -> None:
    """Put the faults that tests declare into their reports."""
    for item in items:
        for marker in item.iter_markers(MARKER):
            promise, fault, outcome = marker.args
            item.user_properties.append((MARKER, [promise, fault, outcome]))


def collect(reports: Iterable[pytest.TestReport]) -> dict[Key, Row]:
    """The rows of some reports, in the order of the promises."""
    rows: dict[Key, Row] = {}
    for report in reports:
        seconds = [value for name, value in report.user_properties if name == RECOVERY and isinstance(value, float)]
        for promise, fault, outcome in (value for name, value in report.user_properties if name == MARKER):
            row = rows.setdefault((promise, fault, outcome), Row())
            row.passed += report.passed
            row.failed += report.failed
            row.recovery_s += seconds
    return dict(sorted(rows.items(), key=lambda entry: (int(entry[0][0][1:]), entry[0])))


def render(rows: dict[Key, Row]) -> list[str]:
    """The table as lines of text; empty without rows."""
    cells = [("", "fault", "what follows", "cases", "to the next step")] if rows else []
    for (promise, fault, outcome), row in rows.items():
        cases = f"{row.passed} ok" + (f", {row.failed} FAILED" if row.failed else "")
        cells.append((promise, fault, outcome, cases, _seconds(row.recovery_s)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _seconds(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{high:.1f} s" if high - low < 0.05 else f"{low:.1f} to {high:.1f} s"
