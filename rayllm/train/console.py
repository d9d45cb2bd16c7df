"""Progress of a run for people: a live panel on a terminal, plain lines elsewhere.

In: the same records that go to ``metrics.jsonl``. Out: text on standard error.
"""

import math
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

#: Seconds between plain lines of training progress; validations and events are always printed.
PLAIN_INTERVAL_S = 10.0

Record = Mapping[str, Any]


class Display(Protocol):
    """Shows records as they come."""

    def show(self, record: Record) -> None:
        """Show one record."""
        ...

    def close(self) -> None:
        """Leave the last state on the screen."""
        ...


def open_display(stream: TextIO | None = None) -> Display:
    """A live panel if the stream is a terminal, else plain lines."""
    target = stream or sys.stderr
    return LiveDisplay(Console(file=target)) if target.isatty() else PlainDisplay(target)


def format_count(value: float) -> str:
    """A count with a unit: 1.23M, 45.6K, 789."""
    for factor, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= 0.9995 * factor:  # what rounds to 1000 of a unit is 1 of the next
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"


def format_seconds(seconds: float) -> str:
    """A duration: 2h05m, 3m20s, 45s."""
    whole = int(seconds)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def eta_s(record: Record) -> float:
    """Seconds to the end of the plan at the present speed, without validation and saving."""
    return (record["total_steps"] - record["step"]) * record["step_s"]


def train_line(record: Record) -> str:
    """One training record as a line."""
    loss = "non-finite" if record["loss"] is None else f"{record['loss']:.4f}"
    compared = f"  margin {record['margin']:.3f}  accuracy {record['accuracy']:.0%}" if "margin" in record else ""
    mfu = f"  mfu {record['mfu']:.1%}" if record.get("mfu") else ""
    return (
        f"step {record['step']}/{record['total_steps']}  loss {loss}{compared}  lr {record['lr']:.2e}  "
        f"{format_count(record['tokens_per_s'])} tokens/s{mfu}  eta {format_seconds(eta_s(record))}"
    )


def validation_domains(record: Record) -> list[str]:
    """Names of the domains that a validation record scores."""
    return [name.removeprefix("bits_per_byte/") for name in record if name.startswith("bits_per_byte/")]


def validation_line(record: Record) -> str:
    """One validation record as a line."""
    scores = "  ".join(f"{name} {record[f'bits_per_byte/{name}']:.3f}" for name in validation_domains(record))
    compared = [
        f"{name} {record[f'accuracy/{name}']:.1%} (margin {record[f'margin/{name}']:.3f})"
        for name in validation_domains(record)
        if f"accuracy/{name}" in record
    ]
    preferred = f"; preferred: {', '.join(compared)}" if compared else ""
    mean = f"mean {record['mean_bits_per_byte']:.3f}"
    return f"step {record['step']}  validation, bits per byte: {scores}  {mean}{preferred}"


class PlainDisplay:
    """Lines for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._last = stream, -math.inf

    def show(self, record: Record) -> None:
        """Print a record, training records at most every few seconds."""
        kind = record["kind"]
        if kind == "train":
            now = time.monotonic()
            last = record["step"] == record["total_steps"]
            if now - self._last < PLAIN_INTERVAL_S and not last:
                return
            self._last = now
            self._line(train_line(record))
        elif kind == "validation":
            self._line(validation_line(record))
        elif kind == "event":
            self._line(f"{record['level']}: {record['message']}")

    def close(self) -> None:
        """Nothing is pending."""

    def _line(self, text: str) -> None:
        self._stream.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        self._stream.flush()


class LiveDisplay:
    """One panel that is redrawn in place: progress, speed, and the scores of each domain, first and latest."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._train: Record | None = None
        self._first: Record | None = None
        self._latest: Record | None = None
        self._sample: Record | None = None
        self._live = Live(self._render(), console=console, refresh_per_second=4, transient=False)
        self._live.start()

    def show(self, record: Record) -> None:
        """Take a record and redraw."""
        kind = record["kind"]
        if kind == "train":
            self._train = record
        elif kind == "validation":
            self._first = self._first or record
            self._latest = record
        elif kind == "sample":
            self._sample = record
        elif kind == "event":
            style = "yellow" if record["level"] == "warning" else "dim"
            self._live.console.print(Text(str(record["message"]), style=style))
        self._live.update(self._render())

    def close(self) -> None:
        """Stop redrawing; the last panel stays."""
        self._live.stop()

    def _render(self) -> RenderableType:
        if self._train is None:
            return Panel(Text("starting workers", style="dim"), title="train", title_align="left", width=88)
        record = self._train
        parts: list[RenderableType] = [
            ProgressBar(total=record["total_steps"], completed=record["step"], width=84),
            Text(train_line(record), no_wrap=True, overflow="ellipsis"),
        ]
        if self._latest is not None and self._first is not None:
            parts += [Text(""), self._scores(self._first, self._latest)]
        if self._sample is not None:
            text = " ".join(f"{self._sample['prompt']} → {self._sample['text']}".split())
            parts += [
                Text(""),
                Text(f"{self._sample['domain']}: {text}", style="italic dim", no_wrap=True, overflow="ellipsis"),
            ]
        body = Table.grid(expand=True)  # rows, since a progress bar alone does not end its line
        for part in parts:
            body.add_row(part)
        return Panel(body, title="train", title_align="left", width=88)

    def _scores(self, first: Record, latest: Record) -> Table:
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for name in ("domain", "bits per byte", "from", "loss", "perplexity", "surprise"):
            table.add_column(name, justify="left" if name == "domain" else "right")
        for name in validation_domains(latest):
            table.add_row(
                name,
                f"{latest[f'bits_per_byte/{name}']:.3f}",
                f"{first[f'bits_per_byte/{name}']:.3f}",
                f"{latest[f'loss/{name}']:.3f}",
                f"{latest[f'perplexity/{name}']:.1f}",
                f"{latest[f'surprise_ratio/{name}']:.2f}",
            )
        return table
