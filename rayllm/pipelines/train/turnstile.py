"""Where a training with workers of its own stands still: at validations after which its driver decides about it.

The driver is in another process, maybe on another node, and hears of the validation by the records; it answers with
files beside the run's artifacts: one that says from which step the run may go on, or the one that asks it to stop.
"""

import time
from collections.abc import Callable, Collection, Mapping

from rayllm.core import storage
from rayllm.core.log import Value, get_logger
from rayllm.pipelines.train.job import STOP_FILE

#: Holds the last step from which the run may go on.
GO_FILE = "goes-on-from"
#: Seconds between looks at the files.
POLL_S = 0.2
#: Seconds after which it goes on unanswered: the watchdogs of the other ranks must not take waiting for a stall.
LAPSE_S = 30.0

logger = get_logger(__name__)


class Turnstile:
    """Gets the records of rank 0, and says whether the run was asked to stop.

    Args:
        directory: URI of the run's artifact.
        steps: At whose validations it waits; not at that of the last step, which nothing follows.
        stop: The answer to whether the run was asked to stop, where nobody waits.
    """

    def __init__(self, directory: str, steps: Collection[int], stop: Callable[[], bool]) -> None:
        self._go, self._stop_file = (storage.join(directory, name) for name in (GO_FILE, STOP_FILE))
        self._steps, self._stop = steps, stop
        self._told, self._last = False, False

    def __call__(self) -> bool:
        """Whether to save and stop."""
        return self._told or self._stop()

    def write(self, record: Mapping[str, Value]) -> None:
        """Wait, if this is a validation after which the driver decides."""
        if record["kind"] == "train":
            self._last = record["step"] == record["total_steps"]
        elif record["kind"] == "validation" and record["step"] in self._steps and not self._last:
            self._wait(int(str(record["step"])))

    def close(self) -> None:
        """Nothing is pending."""

    def _wait(self, step: int) -> None:
        deadline = time.monotonic() + LAPSE_S
        while time.monotonic() < deadline:
            self._told = self() or storage.exists(self._stop_file)
            if self._told or goes_on_from(self._go) >= step:
                return
            time.sleep(POLL_S)
        logger.warning("nobody said within %.0f s whether this trial goes on after step %d: it does", LAPSE_S, step)


def let_go_on(directory: str, step: int) -> None:
    """Tell a run that it may go on from a validation."""
    storage.write_text(storage.join(directory, GO_FILE), str(step))


def goes_on_from(file: str) -> int:
    """The last step from which a run may go on; -1 before the first."""
    return int(storage.read_bytes(file)) if storage.exists(file) else -1


def forget(directory: str) -> None:
    """Take back what an earlier start was told."""
    storage.remove(storage.join(directory, GO_FILE))
