"""A rank that no longer gets on is named, with its stacks, and ended: nothing waits for ever without a word.

In: a beat with each phase of a step. Out, after ``timeout_s`` without one: a note ``rank-00001.json`` in ``stalls/``
(rank, step, phase, seconds, stacks of all threads), then the end of the process. One rank that hangs stops all the
others in their next collective; whose stacks show that writes so and ends a moment later, so that the rank that stood
elsewhere has written too, and ``describe_stalls`` names that one first; of several, since collectives of GPUs show in
no stack, the one that stood first.
"""

import json
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from rayllm.core import storage
from rayllm.core.log import get_logger

#: Exit code of a rank that its watchdog ended.
STALLED = 70
DIRECTORY = "stalls"
#: The phase before the first step, and the seconds that it may take at least.
STARTING, START_S = "starting", 120.0
#: The thread that saves waits for other ranks beside training, and says nothing about what training waits for.
SAVING = "saving_0"
#: Files whose functions wait for other ranks, and a function of ours that does.
COLLECTIVES = ("torch/distributed/distributed_c10d.py", "deepspeed/comm/", "in wait_for_sums")
logger = get_logger(__name__)
_NAME = re.compile(r"rank-\d{5,}\.json")


class Watchdog:
    """Watches one rank from a thread of its own.

    Args:
        directory: Of the train artifact; notes go below it.
        rank: Of this process.
        attempt: Which start of the run.
        timeout_s: Seconds without a beat; 0: the watchdog sleeps. Before the first beat at least ``START_S``.
        end: What ends the process.
    """

    def __init__(
        self, directory: str, rank: int, attempt: int, timeout_s: float, end: Callable[[int], Any] = os._exit
    ) -> None:
        self._directory, self._rank, self._attempt = directory, rank, attempt
        self._timeout_s, self._end = timeout_s, end
        self._last = (time.monotonic(), 0, STARTING)
        self._closed = threading.Event()
        if timeout_s > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, step: int, phase: str) -> None:
        """The rank got on: it now begins this phase of a step."""
        self._last = (time.monotonic(), step, phase)

    def close(self) -> None:
        """No more beats will come."""
        self._closed.set()

    def _watch(self) -> None:
        look_s = min(1.0, self._timeout_s / 4)
        while not self._closed.wait(look_s):
            since, step, phase = self._last
            silent_s = time.monotonic() - since
            if silent_s > (max(self._timeout_s, START_S) if phase == STARTING else self._timeout_s):
                if self._report(step, phase, silent_s):
                    time.sleep(2 * look_s)  # the end of one rank ends all: whoever is waited for writes its note first
                self._end(STALLED)
                return

    def _report(self, step: int, phase: str, silent_s: float) -> bool:
        """Write down where the rank stands; returns whether it only waits for others."""
        stacks = _stacks()
        waits = any(name in stack for owner, stack in stacks if owner != SAVING for name in COLLECTIVES)
        logger.error("rank %d made no progress for %.0f s at step %d: %s", self._rank, silent_s, step, phase)
        text = "\n".join(f"thread {owner}:\n{stack}" for owner, stack in stacks)
        sys.stderr.write(text)
        sys.stderr.flush()
        note = {"rank": self._rank, "step": step, "phase": phase, "silent_s": round(silent_s, 1), "waits": waits}
        note |= {"since": time.time() - silent_s, "stacks": text}
        try:
            storage.write_text(
                storage.join(stalls_of(self._directory, self._attempt), _name(self._rank)), json.dumps(note)
            )
        except OSError as error:  # the process must end whether or not the note can be written
            logger.error("the note of the stall could not be written: %s", error)
        return waits


def stalls_of(directory: str, attempt: int) -> str:
    """Where the ranks of one start of a run write their notes."""
    return storage.join(directory, DIRECTORY, f"attempt-{attempt}")


def describe_stalls(directory: str, attempt: int) -> list[str]:
    """One line for each rank that stalled in this start of the run, the likely cause first."""
    where = stalls_of(directory, attempt)
    if not storage.exists(where):
        return []
    fs, path = storage.filesystem(where)
    names = sorted(str(entry).rpartition("/")[2] for entry in fs.ls(path, detail=False))
    written = [name for name in names if _NAME.fullmatch(name)]  # not what a rank left that was killed while it wrote
    notes = [json.loads(storage.read_bytes(storage.join(where, name))) for name in written]
    notes.sort(key=lambda note: (note["waits"], note["since"], note["rank"]))
    return [
        f"rank {note['rank']} made no progress for {note['silent_s']:.0f} s at step {note['step']}: {note['phase']}"
        f"{', waiting for other ranks' if note['waits'] else ''}; "
        f"its stacks: {storage.join(where, _name(note['rank']))}"
        for note in notes
    ]


def _name(rank: int) -> str:
    return f"rank-{rank:05d}.json"


def _stacks() -> list[tuple[str, str]]:
    """Name and stack of every thread of this process, the main thread first."""
    frames = sys._current_frames()
    main = threading.main_thread().ident
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    order = sorted(frames, key=lambda ident: ident != main)
    return [(names.get(ident, str(ident)), "".join(traceback.format_stack(frames[ident]))) for ident in order]
