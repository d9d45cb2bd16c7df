"""Stopping a run in good order: signals become a file that the workers look for."""

import os
import signal
import threading
from types import FrameType, TracebackType

from rayllm.core import storage
from rayllm.core.log import get_logger

logger = get_logger(__name__)


class StopRequest:
    """The first Ctrl-C or SIGTERM asks the workers to save and stop; the second ends the driver at once.

    Args:
        file: URI of the file that the workers look for.
    """

    def __init__(self, file: str) -> None:
        self._file, self.asked = file, False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        """Listen to signals; only a process's main thread can."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put back the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] - as `signal` gave it

    def write(self) -> None:
        """Ask the workers to save and stop."""
        storage.write_text(self._file, "stop\n")

    def clear(self) -> None:
        """Take back what an earlier start was asked."""
        storage.remove(self._file)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            os._exit(128 + number)
        self.asked = True
        self.write()
        logger.info("stopping after this step and saving; once more to stop at once")
