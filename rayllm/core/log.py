"""Logging for people and metrics for programs.

``get_logger`` gives named loggers below ``rayllm``; ``configure`` sends them to standard error as plain lines. A
``MetricSink`` takes one flat record at a time; ``JsonlSink`` appends them to a file.
"""

import json
import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol, TextIO

Value = float | int | str | bool | None


def get_logger(name: str) -> logging.Logger:
    """The logger of a module."""
    return logging.getLogger(name if name.startswith("rayllm") else f"rayllm.{name}")


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is when a line is logged: it may be replaced, and the old one closed."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sys.stderr


def configure(level: int = logging.INFO) -> None:
    """Send our log lines to standard error, once."""
    root = logging.getLogger("rayllm")
    if not root.handlers:
        handler = _StandardError()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
    root.setLevel(level)
    root.propagate = False


class MetricSink(Protocol):
    """Takes records of metrics: flat, JSON-ready, each with at least ``step``."""

    def write(self, record: Mapping[str, Value]) -> None:
        """Take one record; must return fast."""
        ...

    def close(self) -> None:
        """Flush what is pending."""
        ...


class JsonlSink:
    """Appends records to a local JSONL file, one line each, flushed at once."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if _ends_within_a_line(path):  # A killed process left half a line; the next one must not be lost with it.
            self._file.write("\n")

    def write(self, record: Mapping[str, Value]) -> None:
        """Append one line."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_within_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return size > 0 and file.read(1) != b"\n"


class SinkGroup:
    """Sends each record to several sinks."""

    def __init__(self, sinks: Sequence[MetricSink]) -> None:
        self._sinks = tuple(sinks)

    def write(self, record: Mapping[str, Value]) -> None:
        """Pass the record on."""
        for sink in self._sinks:
            sink.write(record)

    def close(self) -> None:
        """Close all."""
        for sink in self._sinks:
            sink.close()


class BesideSink:
    """Hands records to a sink that takes its time, in a thread: whoever writes does not wait.

    Args:
        sink: Gets the records in their order; one that it cannot take is told in the log, and the next one follows.
    """

    def __init__(self, sink: MetricSink) -> None:
        self._sink = sink
        self._waiting: SimpleQueue[dict[str, Value] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._hand_over, name="records", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, Value]) -> None:
        """Put one record behind those that wait: a few microseconds."""
        self._waiting.put(dict(record))

    def close(self) -> None:
        """Wait until all are handed over."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()
        self._sink.close()

    def _hand_over(self) -> None:
        while (record := self._waiting.get()) is not None:
            try:
                self._sink.write(record)
            except Exception as error:  # noqa: BLE001 - whatever a service raises, the run goes on without its record
                get_logger(__name__).warning("a record was not taken: %s: %s", type(error).__name__, error)
