"""Metrics are lines of JSON that are on disk at once; log lines go to standard error, once."""

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from rayllm.core.log import BesideSink, JsonlSink, SinkGroup, Value, configure, get_logger


def test_records_are_on_disk_before_the_sink_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.jsonl"
    sink = JsonlSink(path)
    sink.write({"step": 1, "loss": 2.5})
    sink.write({"step": 2, "note": "ü\n"})
    assert [json.loads(line) for line in path.read_text().split("\n")[:-1]] == [
        {"step": 1, "loss": 2.5},
        {"step": 2, "note": "ü\n"},
    ]
    sink.close()


def test_a_sink_continues_the_file_of_an_earlier_attempt(tmp_path: Path) -> None:
    for step in (1, 2):
        sink = JsonlSink(tmp_path / "m.jsonl")
        sink.write({"step": step})
        sink.close()
    assert (tmp_path / "m.jsonl").read_text().count("\n") == 2


def test_a_group_passes_each_record_to_all(tmp_path: Path) -> None:
    group = SinkGroup([JsonlSink(tmp_path / "a"), JsonlSink(tmp_path / "b")])
    group.write({"step": 1})
    group.close()
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == '{"step": 1}\n'


def test_loggers_are_below_ours_and_configured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger("rayllm")
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "propagate", True)
    configure()
    configure()
    assert len(root.handlers) == 1
    assert get_logger("pipelines.x").name == "rayllm.pipelines.x"
    assert get_logger("rayllm.core").name == "rayllm.core"


def test_half_a_line_of_a_killed_process_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    sink = JsonlSink(path)
    sink.write({"step": 2})
    sink.close()
    assert path.read_text().splitlines() == ['{"step": 1}', '{"step": 2, "lo', '{"step": 2}']


class Slow:
    """Waits until it may go on; refuses the second record."""

    def __init__(self) -> None:
        self.may_go_on, self.taken, self.closed = threading.Event(), [], False

    def write(self, record: Mapping[str, Value]) -> None:
        assert self.may_go_on.wait(10)
        if record["step"] == 2:
            raise OSError("no room")
        self.taken.append(record["step"])

    def close(self) -> None:
        self.closed = True


def test_nobody_waits_for_a_sink_beside_and_none_of_its_records_is_lost(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow()
    sink = BesideSink(slow)
    record: dict[str, Value] = {"step": 1}
    for step in (1, 2, 3):
        record["step"] = step
        sink.write(record)
    assert slow.taken == []
    slow.may_go_on.set()
    monkeypatch.setattr(logging.getLogger("rayllm"), "propagate", True)
    sink.close()
    assert slow.taken == [1, 3]
    assert slow.closed
    assert "no room" in caplog.text
