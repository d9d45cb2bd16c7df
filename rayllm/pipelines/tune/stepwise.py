"""One training, taken from validation to validation.

In: a function that trains and hands its records to a ``Gate``. Out of ``Stepwise.advance``: the next validation, or how
the training ended. It runs in a thread of its own and stands still at the gate after each validation until it is told
to go on, or to end; then it leaves its loop by itself. Nothing is ever killed in the middle.
"""

import queue
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from rayllm.core.errors import RayllmError
from rayllm.core.log import Value
from rayllm.tune.results import Point, finite

#: Seconds that a training stands at the gate before it ends itself: its watchdog must not take waiting for a stall.
LAPSE_S = 30.0
#: Fields of a validation's record that are no metrics.
_HEAD = ("kind", "step", "attempt", "time", "tokens")

Ended = Literal["", "finished", "asked", "failed", "lapsed"]


class EndedAtGate(RayllmError):
    """Raised inside a training that was told to end at a validation; it is no error to anybody."""


@dataclass(frozen=True)
class Reached:
    """How far a training came.

    Attributes:
        point: The new validation; None where it ended without one.
        ended: How it ended; empty while it stands at the gate. ``asked``: it was asked to save and stop, and has.
        error: Why it failed, in its own words.
        trace: The same as a traceback.
        last: Whether the validation is that of the plan's last step.
    """

    point: Point | None = None
    ended: Ended = ""
    error: str = ""
    trace: str = ""
    last: bool = False


class Gate:
    """Where a training and whoever drives it meet; a sink of records to the training.

    Args:
        waits: Whether the training stands still here at validations; workers of its own stand still where they are.
        on_answer: Gets each answer: the step, and whether to go on from it.
    """

    def __init__(
        self, *, waits: bool = True, on_answer: Callable[[int, bool], None] = lambda step, go_on: None
    ) -> None:
        self.said: queue.SimpleQueue[Reached] = queue.SimpleQueue()
        self.begun_s = 0.0
        self._waits, self.on_answer = waits, on_answer
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._at_last_step = False

    def begin(self) -> None:
        """The training is set up, and now takes its first step."""
        self.begun_s = self.begun_s or time.time()

    def write(self, record: Mapping[str, Value]) -> None:
        """Look at a record; at a validation, wait for an answer unless nothing follows.

        Raises:
            EndedAtGate: If the training is to end here.
        """
        if record["kind"] == "train":
            self._at_last_step = record["step"] == record["total_steps"]
        elif record["kind"] == "validation":
            self.begin()
            self.said.put(Reached(point_of(record), last=self._at_last_step))
            if self._waits and not self._at_last_step:
                self._wait()

    def close(self) -> None:
        """Nothing is pending."""

    def answer(self, step: int, *, go_on: bool) -> None:
        """Tell the training to go on from a step's validation, or to end."""
        self.on_answer(step, go_on)
        self._answers.put(go_on)

    def _wait(self) -> None:
        try:
            go_on = self._answers.get(timeout=LAPSE_S)
        except queue.Empty:
            raise EndedAtGate("nobody asked for the next step", why="lapsed") from None
        if not go_on:
            raise EndedAtGate("the trial was stopped at a validation")


#: Trains, and says whether to the end of its plan; else it was asked to save and stop.
Body = Callable[[Gate], bool]


class Stepwise:
    """Drives a training.

    Args:
        body: Trains; called again where the training lapsed, to go on from its checkpoint.
        waits: See ``Gate``.
    """

    def __init__(self, body: Body, *, waits: bool = True) -> None:
        self._body, self._waits = body, waits
        self._gate = Gate(waits=waits)
        self._thread: threading.Thread | None = None
        self._seen = -1
        self.begun_s = 0.0

    def advance(self) -> Reached:
        """Train to the next validation, or to the end."""
        if self._thread is None:
            self._start()
        else:
            self._gate.answer(self._seen, go_on=True)
        while True:
            reached = self._gate.said.get()
            self.begun_s = self.begun_s or self._gate.begun_s
            if reached.ended == "lapsed":
                self._start()
            elif reached.point is not None and reached.point.step <= self._seen:
                self._gate.answer(reached.point.step, go_on=True)
            elif reached.last:
                return self._with_end(reached)
            else:
                self._seen = reached.point.step if reached.point else self._seen
                return reached

    def end(self) -> None:
        """Have the training leave its loop, and wait until it has."""
        if self._thread is not None:
            self._gate.answer(self._seen, go_on=False)
            self._thread.join()
            self._thread = None

    def _with_end(self, reached: Reached) -> Reached:
        """The last validation and the end are one: what is left is to save."""
        ending = self._gate.said.get()
        return replace(ending, point=reached.point)

    def _start(self) -> None:
        self._gate = Gate(waits=self._waits)
        self._thread = threading.Thread(target=self._run, args=(self._gate,), name="trial", daemon=True)
        self._thread.start()

    def _run(self, gate: Gate) -> None:
        """The thread's own main function."""
        try:
            ending = Reached(ended="finished" if self._body(gate) else "asked")
        except EndedAtGate as error:
            ending = Reached(ended="lapsed" if error.why else "asked")
        except BaseException as error:  # noqa: BLE001 - it is told to whoever drives the training
            ending = Reached(ended="failed", error=describe(error), trace=traceback.format_exc())
        gate.said.put(ending)


def point_of(record: Mapping[str, Value]) -> Point:
    """A validation's record as a point of a trial's curve; what is not finite is left out."""
    metrics = finite({name: value for name, value in record.items() if name not in _HEAD})
    return Point(step=int(str(record["step"])), tokens=int(str(record["tokens"])), metrics=metrics)


def describe(error: BaseException) -> str:
    """What a trial died of, in its own words."""
    return str(error) if isinstance(error, RayllmError) else f"{type(error).__name__}: {error}"
