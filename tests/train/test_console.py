from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from rayllm.train import console
from rayllm.train.console import (
    LiveDisplay,
    PlainDisplay,
    format_count,
    format_seconds,
    open_display,
    train_line,
    validation_line,
)


def train_record(step: int = 5, **changes: Any) -> dict[str, Any]:
    record = {"kind": "train", "step": step, "total_steps": 10, "loss": 2.5, "lr": 3e-4, "tokens_per_s": 12_345.0}
    return record | {"step_s": 30.0, "mfu": None} | changes


def validation_record(step: int, bits: float) -> dict[str, Any]:
    scores = {"bits_per_byte/code": bits, "loss/code": 2.0, "perplexity/code": 7.4, "surprise_ratio/code": 0.5}
    return {"kind": "validation", "step": step, "mean_bits_per_byte": bits, "mean_loss": 2.0, **scores}


class Terminal(StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (789, "789"),
        (1000, "1K"),
        (45_600, "45.6K"),
        (999_499, "999K"),
        (999_999, "1M"),
        (1.234e6, "1.23M"),
        (7.5e9, "7.5B"),
        (2e12, "2T"),
        (-1500, "-1.5K"),
    ],
)
def test_counts_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert format_count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.9, "59s"), (60, "1m00s"), (200, "3m20s"), (3600, "1h00m"), (7500, "2h05m")]
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_training_line_says_progress_speed_and_time_left() -> None:
    assert train_line(train_record()) == "step 5/10  loss 2.5000  lr 3.00e-04  12.3K tokens/s  eta 2m30s"
    assert "mfu 41.5%" in train_line(train_record(mfu=0.415))
    assert "loss non-finite" in train_line(train_record(loss=None))


def test_a_validation_line_names_every_domain() -> None:
    record = validation_record(4, 1.5) | {"bits_per_byte/math": 0.25}
    assert validation_line(record) == "step 4  validation, bits per byte: code 1.500  math 0.250  mean 1.500"


def test_plain_training_lines_keep_their_distance_but_the_last_always_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 0.5}
    monkeypatch.setattr(console.time, "monotonic", lambda: clock["now"])
    stream = StringIO()
    display = PlainDisplay(stream)
    for step, now in ((1, 0.5), (2, 5.0), (3, 10.6), (4, 11.0), (10, 11.5)):
        clock["now"] = now
        display.show(train_record(step))
    display.close()
    shown = [line.split()[2] for line in stream.getvalue().splitlines()]
    assert shown == ["1/10", "3/10", "10/10"]


def test_plain_lines_show_validations_and_events_at_once_and_samples_not() -> None:
    stream = StringIO()
    display = PlainDisplay(stream)
    display.show(validation_record(0, 3.0))
    display.show({"kind": "event", "step": 0, "level": "warning", "message": "few tokens"})
    display.show({"kind": "sample", "step": 0, "domain": "code", "prompt": "a", "text": "b"})
    first, second = stream.getvalue().splitlines()
    assert first.endswith("mean 3.000")
    assert second.endswith("warning: few tokens")


def test_a_terminal_gets_a_panel_and_a_pipe_gets_lines() -> None:
    assert isinstance(open_display(StringIO()), PlainDisplay)
    live = open_display(Terminal())
    assert isinstance(live, LiveDisplay)
    live.close()


def test_the_panel_shows_progress_first_and_latest_scores_and_the_last_sample() -> None:
    stream = StringIO()
    display = LiveDisplay(Console(file=stream, width=100, force_terminal=True))
    display.show(validation_record(0, 3.0))
    display.show(train_record())
    display.show(validation_record(5, 1.25))
    display.show({"kind": "sample", "step": 5, "domain": "code", "prompt": "def f", "text": "(x):\n  return x"})
    display.show({"kind": "event", "step": 5, "level": "warning", "message": "one step was skipped"})
    display.close()
    shown = stream.getvalue()
    assert "starting workers" in shown
    assert "one step was skipped" in shown
    last = shown[shown.rindex("╭") :]
    assert "step 5/10" in last
    assert "1.250" in last
    assert "3.000" in last
    assert "code: def f → (x): return x" in last


def test_text_with_markup_is_shown_as_it_is() -> None:
    stream = StringIO()
    display = LiveDisplay(Console(file=stream, width=100, force_terminal=True))
    display.show(train_record())
    display.show({"kind": "sample", "step": 5, "domain": "code", "prompt": "x[0]", "text": "[/red] y[bold]"})
    display.show({"kind": "event", "step": 5, "level": "info", "message": "kept [/all] of it"})
    display.close()
    assert "code: x[0] → [/red] y[bold]" in stream.getvalue()
    assert "kept [/all] of it" in stream.getvalue()


def test_a_run_that_compares_replies_shows_margins_and_accuracy() -> None:
    train = {"step": 1, "total_steps": 2, "loss": 0.5, "lr": 1e-3, "tokens_per_s": 10.0, "step_s": 1.0}
    assert "loss 0.5000  margin 0.250  accuracy 75%  lr" in train_line(train | {"margin": 0.25, "accuracy": 0.75})
    assert "margin" not in train_line(train)
    scores = {"bits_per_byte/a": 1.0, "bits_per_byte/b": 2.0, "accuracy/a": 0.625, "margin/a": 0.5}
    shown = validation_line({"step": 3, "mean_bits_per_byte": 1.5} | scores)
    assert shown.endswith("a 1.000  b 2.000  mean 1.500; preferred: a 62.5% (margin 0.500)")
