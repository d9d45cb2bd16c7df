import io
import sys

import pytest

from rayllm.core.progress import Step
from rayllm.pipelines import progress
from rayllm.pipelines.progress import Meter, track


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rates_and_time_left_are_those_of_the_work_done() -> None:
    clock = Clock()
    meter = Meter("reading", 100, "units", clock)
    assert meter.state() == "0% of 100 units, eta unknown"
    clock.now += 10
    meter.add(Step(done=20, documents=4000, bytes=30_000_000, tokens=7_000_000))
    assert meter.left_s() == pytest.approx(40)
    assert meter.state() == (
        "20% of 100 units, eta 40s, 4K documents (400 documents/s), 30 MB (3 MB/s), 7M tokens (700K tokens/s)"
    )
    assert meter.summary().startswith("20 units in 10s, 4K documents")


def test_what_an_earlier_start_finished_promises_no_speed() -> None:
    clock = Clock()
    meter = Meter("reading", 1000, "bytes", clock)
    meter.add(Step(done=900, bytes=900, found=True))
    clock.now += 10
    assert meter.left_s() is None
    meter.add(Step(done=50, bytes=50))
    assert meter.left_s() == pytest.approx(10)
    assert meter.state() == "95% of 1 kB, eta 10s, 950 B (5 B/s)"
    assert meter.summary() == "950 B in 10s, 950 B (5 B/s), 1 found finished"


def test_an_estimate_that_was_too_small_never_passes_all() -> None:
    meter = Meter("reading", 10, "units", Clock())
    meter.add(Step(done=30))
    assert "100% of 10 units" in meter.state()
    assert meter.left_s() == 0


def test_items_pass_unchanged_and_lines_come_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(progress.logger, "info", lambda message, *values: said.append(message % values))
    items = list(track(range(3), "counting", total=3, step=lambda item: Step(documents=item), unit="numbers"))
    assert items == [0, 1, 2]
    assert [line.partition(", ")[0] for line in said] == [
        "counting: 33% of 3 numbers",
        "counting: 67% of 3 numbers",
        "counting: 100% of 3 numbers",
        "counting: 3 numbers in 0s",
    ]


def test_a_terminal_gets_a_bar_that_is_taken_away_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")

    def failing() -> object:
        yield 1
        yield 2
        raise ValueError("the work failed")

    with pytest.raises(ValueError, match="the work failed"):
        list(track(failing(), "prepare: reading", total=4, step=lambda _: Step(bytes=2_000_000), unit="units"))
    text = terminal.getvalue()
    assert "prepare: reading" in text
    assert "━" in text
    assert "50% of 4 units" in text
    assert text.rstrip("\n").endswith("\x1b[2K")
