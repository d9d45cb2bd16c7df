"""Progress of long stages for people: one bar that is redrawn on a terminal, a plain line every few seconds elsewhere.

In: items as they are made, and what each says of itself (``core.progress.Step``). Out: the same items, and text on
standard error: how much is done, documents, bytes and tokens with their rates, and the time left.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from rayllm.core.log import get_logger
from rayllm.core.progress import Step
from rayllm.train.console import format_count, format_seconds

T = TypeVar("T")
logger = get_logger(__name__)

#: Seconds between plain lines.
PLAIN_INTERVAL_S = 10.0
BAR_CHARS = 24


class Meter:
    """Sums of the steps so far, their rates, and the time left.

    Rates and time left are those of the steps that were really done: what an earlier start had finished comes at once
    and would promise too much.

    Args:
        label: What is being done.
        total: All that is to do, in ``unit``.
        unit: What is counted, plural.
        clock: Seconds from any origin.
    """

    def __init__(self, label: str, total: float, unit: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.label, self.total, self.unit, self._clock = label, total, unit, clock
        self._start = clock()
        self.done = self.fresh = 0.0
        self.found = 0
        self._sums = dict.fromkeys(("documents", "bytes", "tokens"), 0)
        self._fresh_sums = dict(self._sums)

    def add(self, step: Step) -> None:
        """Count a step."""
        self.done += step.done
        self.found += step.found
        self.fresh += 0 if step.found else step.done
        for name in self._sums:
            amount = getattr(step, name)
            self._sums[name] += amount
            self._fresh_sums[name] += 0 if step.found else amount

    @property
    def elapsed_s(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._start

    def left_s(self) -> float | None:
        """Seconds until the end at the speed so far; None while nothing is known."""
        if not self.fresh:
            return None
        return max(0.0, self.total - self.done) * self.elapsed_s / self.fresh

    def rates(self) -> str:
        """Documents, bytes and tokens, each with its rate; what never came is left out."""
        seconds = max(self.elapsed_s, 1e-9)
        units = {"documents": " documents", "bytes": "B", "tokens": " tokens"}
        parts = []
        for name, amount in self._sums.items():
            if amount:
                rate = format_count(self._fresh_sums[name] / seconds)
                unit = units[name].removesuffix("s") if amount == 1 else units[name]
                parts.append(f"{_amount(amount, unit)} ({_amount_text(rate, units[name])}/s)")
        return ", ".join(parts)

    def state(self) -> str:
        """How much is done, time left, rates: what matters most stands first, where a narrow terminal shows it."""
        left = self.left_s()
        eta = f"eta {format_seconds(left)}" if left is not None else "eta unknown"
        return ", ".join(filter(None, [self._of_total(), eta, self.rates()]))

    def summary(self) -> str:
        """What was done, when all is."""
        found = f"{self.found:,} found finished" if self.found else ""
        what = self._quantity(self.done)
        return ", ".join(filter(None, [f"{what} in {format_seconds(self.elapsed_s)}", self.rates(), found]))

    def _of_total(self) -> str:
        share = min(1.0, self.done / self.total) if self.total else 1.0
        return f"{share:.0%} of {self._quantity(self.total)}"

    def _quantity(self, value: float) -> str:
        if self.unit == "bytes":
            return _amount(value, "B")
        return f"{value:,.0f} {self.unit[:-1] if value == 1 else self.unit}"


def _amount(value: float, unit: str) -> str:
    return _amount_text(format_count(value), unit)


def _amount_text(number: str, unit: str) -> str:
    """``1.2 MB`` but ``1.2M documents``."""
    if unit != "B":
        return f"{number}{unit}"
    return f"{number[:-1]} {number[-1].replace('K', 'k')}B" if number[-1].isalpha() else f"{number} B"


class _State(ProgressColumn):
    """The meter's state, drawn anew with every refresh."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        super().__init__()

    def render(self, task: Task) -> Text:
        """One line."""
        return Text(self._meter.state(), no_wrap=True, overflow="ellipsis")


def track(
    items: Iterable[T], label: str, *, total: float, step: Callable[[T], Step], unit: str = "steps"
) -> Iterator[T]:
    """Pass items on and show how far they are; see ``core.progress.Watch``.

    On a terminal a bar stands below the log while it lasts. In both cases one line stays at the end.
    """
    meter = Meter(label, total, unit)
    shown: AbstractContextManager[Callable[[], None]] = _Bar(meter) if sys.stderr.isatty() else _Lines(meter)
    with shown as show:
        for item in items:
            meter.add(step(item))
            show()
            yield item
    logger.info("%s: %s", label, meter.summary())


class _Bar:
    """A bar of rich's on standard error, gone at the end."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(BAR_CHARS),
            _State(meter),
            console=Console(file=sys.stderr),
            transient=True,
        )

    def __enter__(self) -> Callable[[], None]:
        self._progress.start()
        task = self._progress.add_task(self._meter.label, total=self._meter.total)
        return lambda: self._progress.update(task, completed=self._meter.done)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class _Lines:
    """Lines of the log."""

    def __init__(self, meter: Meter) -> None:
        self._meter, self._said_s = meter, 0.0

    def __enter__(self) -> Callable[[], None]:
        return self._show

    def __exit__(self, *_: object) -> None:
        pass

    def _show(self) -> None:
        if self._meter.elapsed_s - self._said_s >= PLAIN_INTERVAL_S:
            self._said_s = self._meter.elapsed_s
            logger.info("%s: %s", self._meter.label, self._meter.state())
