"""How a start of a run ended, in words: the cause first, where it happened, then where the full trace is.

In: what ranks said of their end (``Report``), what Ray knows of those that could not speak (``Ending``), notes of the
watchdog, lost nodes. Out: one ``Cause``, and from it a line for the record or the error that ends the run. No Ray here.
"""

import re
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rayllm.core.errors import RayllmError, RunFailed
from rayllm.pipelines.train.crew.sizing import Seat

#: Frames of our own code in a message; the trace has them all.
FRAMES = 5
PACKAGE = Path(__file__).resolve().parents[3]
#: Characters of an exception's message that go into one line.
MESSAGE_CHARS = 300
#: What a rank says when another one is gone: true, but not the cause.
_HEARSAY = re.compile(
    r"gloo[/:]|Connection (closed|reset) by (remote )?peer|Connection refused|Broken pipe|"
    r"nccl(RemoteError|SystemError)|NCCL communicator was aborted|(socket|store).{0,80}(timed out|timeout)|"
    r"failed to (connect|recv)|DistNetworkError",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Report:
    """What a rank said of the exception that ended it.

    Attributes:
        rank: Its world rank.
        error: Class of the exception.
        message: Its text, on one line.
        frames: ``file:line in function`` of our own code, the innermost first.
        trace: The full traceback.
    """

    rank: int
    error: str
    message: str
    frames: tuple[str, ...]
    trace: str

    @property
    def hearsay(self) -> bool:
        """Whether the rank only tells that others are gone."""
        return bool(_HEARSAY.search(f"{self.error}: {self.message}"))


@dataclass(frozen=True)
class Ending:
    """How one start of the workers ended.

    Attributes:
        outcome: ``done``, ``stopped`` (saved, as asked), or empty when it failed.
        error: An error that a restart cannot mend.
        seats: Where the workers sat.
        reports: What ranks said, in the order in which they said it.
        deaths: Ranks that died without a word, each with what Ray says of it.
        no_room: Whether Ray found no place for the workers.
        other: What Ray said, where it was none of these.
    """

    outcome: str = ""
    error: RayllmError | None = None
    seats: tuple[Seat, ...] = ()
    reports: tuple[Report, ...] = ()
    deaths: dict[int, str] = field(default_factory=dict)
    no_room: bool = False
    other: str = ""


@dataclass(frozen=True)
class Cause:
    """Why a start failed.

    Attributes:
        what: In one line.
        where: Frames, or the place of a process.
        why: What is behind it.
        fix: What to do, where there is more than to start again.
        memory: Whether want of memory may be behind it.
    """

    what: str
    where: str = ""
    why: str = ""
    fix: str = ""
    memory: bool = False


def report_of(rank: int, error: BaseException) -> Report:
    """Put an exception into words, on the rank where it was raised: its frames do not travel."""
    return Report(
        rank=rank,
        error=type(error).__name__,
        message=_one_line(str(error)),
        frames=_our_frames(error),
        trace="".join(traceback.format_exception(error)),
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MESSAGE_CHARS]


def _our_frames(error: BaseException) -> tuple[str, ...]:
    found = []
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            found.append(f"{path.relative_to(PACKAGE.parent)}:{frame.lineno} in {frame.name}")
    return tuple(found[:FRAMES])


def find_cause(ending: Ending, stalls: Sequence[str], lost: Sequence[Seat]) -> Cause:
    """The likeliest cause of a failed start.

    A rank that stood still takes the others with it, and so does a lost node; what ranks say comes next, those first
    that speak of themselves; a death without a word is told last, since Ray notices it last.

    Args:
        ending: What is known.
        stalls: Lines of the watchdog for this start, the likely cause first.
        lost: Workers whose node can no longer be reached.
    """
    own = [report for report in ending.reports if not report.hearsay]
    if stalls:
        fix = "look at the stacks; if steps or validations only take long, raise train.guards.stall_timeout_s"
        return Cause(f"training stood still: {stalls[0]}", why="; ".join(stalls[1:]), fix=fix)
    if lost:
        return Cause(f"{_nodes(lost)} lost", where=", ".join(map(str, lost)))
    if own:
        return _told(own[0])
    if ending.deaths:
        return _died(*min(ending.deaths.items()), ending.seats)
    if ending.no_room:
        return Cause("Ray found no place for the workers", why="others may hold the CPUs or GPUs")
    if ending.reports:
        return _told(ending.reports[0])
    return Cause("Ray Train ended without a result", why=_one_line(ending.other))


def _nodes(seats: Sequence[Seat]) -> str:
    hosts = sorted({seat.host for seat in seats})
    return f"node{'s' if len(hosts) > 1 else ''} {', '.join(hosts)} {'were' if len(hosts) > 1 else 'was'}"


def _told(report: Report) -> Cause:
    what = f"rank {report.rank}: {report.error}" + (f": {report.message}" if report.message else "")
    return Cause(what, where="\n         ".join(report.frames))


def _died(rank: int, said: str, seats: Iterable[Seat]) -> Cause:
    """A process that is gone; Ray tells when its own watch over memory did it, the kernel leaves no word."""
    name = next((str(seat) for seat in seats if seat.rank == rank), f"rank {rank}")
    if "low on memory" in said or "OutOfMemory" in said:
        fix = "lower train.micro_batch_size, use a higher train.engine.zero_stage, or fewer workers on a node"
        return Cause(f"{name} was ended by Ray: its node ran out of memory", fix=fix, memory=True)
    why = "its process was killed from outside; where nobody did, by the kernel for want of memory (see `dmesg`)"
    return Cause(f"{name} died without a word", why=why, memory=True)


def failed_run(cause: Cause, *, attempt: int, restarts: int, again: str, trace: str) -> RunFailed:
    """The error that ends the run.

    Args:
        cause: Why the last start failed.
        attempt: Which start it was.
        restarts: Restarts before it, without a newer checkpoint in between.
        again: How to go on.
        trace: Where the full trace is.
    """
    tried = f"{restarts} restart{'s' if restarts > 1 else ''} did not help" if restarts else ""
    return RunFailed(
        f"training failed in attempt {attempt}: {cause.what}",
        where=cause.where,
        why="; ".join(filter(None, [cause.why, tried])),
        fix="; ".join(filter(None, [cause.fix, again, f"the full trace is in {trace}"])),
    )


def full_trace(ending: Ending) -> str:
    """All that is known, for the file that the message names."""
    parts = [f"{seat}, node {seat.node}" for seat in ending.seats]
    parts += [f"rank {report.rank}:\n{report.trace}" for report in ending.reports]
    parts += [f"rank {rank}, says Ray:\n{said}" for rank, said in sorted(ending.deaths.items())]
    return "\n\n".join([*parts, ending.other]) + "\n"
