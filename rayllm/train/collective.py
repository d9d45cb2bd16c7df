"""The few collectives of the control plane, on CPU tensors; with one process they do nothing."""

import datetime
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from rayllm.core.errors import RayllmError, RunFailed

#: Of a group whose ranks wait for each other's uploads; that one hangs is for the watchdog to find.
GROUP_TIMEOUT = datetime.timedelta(days=1)
#: Seconds between two signs of life of ranks that wait for the first one.
BEAT_S = 0.5
T = TypeVar("T")


def rank() -> int:
    """World rank of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Sum a CPU tensor over all ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def begin_sum(values: Float[Tensor, " n"]) -> Callable[[], None]:
    """The same, but only begun, so that a rank goes on while others come; what is returned waits for the sums."""
    work = dist.all_reduce(values, async_op=True) if world_size() > 1 else None

    def wait_for_sums() -> None:
        if work is not None:
            work.wait()

    return wait_for_sums


def broadcast(value: Any) -> Any:
    """Rank 0's value of a plain Python object, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def led(part: Callable[[Callable[[], object]], T], beat: Callable[[], object]) -> T:
    """What rank 0 finds for all, however long it takes: while it gets on, every rank shows a sign of life.

    Args:
        part: What rank 0 does, in a thread; it is handed what to call when it got on, from any thread.
        beat: A rank's sign of life.

    Raises:
        RunFailed: On the other ranks, where rank 0 fails; there it is what it fails of.
    """
    if rank() != 0:
        while (told := broadcast(None)) is None:
            beat()
        found, failure = told
        if failure:
            raise RunFailed("rank 0 could not do what all wait for", why=failure)
        return found
    got_on = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        work = thread.submit(part, got_on.set)
        while wait([work], timeout=BEAT_S).not_done:
            if got_on.is_set():
                got_on.clear()
                beat()
                broadcast(None)
    if error := work.exception():
        broadcast((None, f"{type(error).__name__}: {error}"))
        raise error
    return broadcast((work.result(), ""))[0]


def new_group() -> Any:
    """A second group of all ranks, for a thread of its own; all ranks call it together. None with one process."""
    return dist.new_group(backend="gloo", timeout=GROUP_TIMEOUT) if world_size() > 1 else None


def gather(value: Any, group: Any = None) -> list[Any]:
    """A plain Python object of each rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, value, group)
    return boxes


def together(part: Callable[[], T], *, what: str, where: str = "", fix: str = "", group: Any = None) -> list[T]:
    """Do a part of some work on every rank, and go on only if every rank could.

    Args:
        part: This rank's part.
        what: What it belongs to, for the message.
        where: The place that it works on, for the message.
        fix: What the reader can do where the operating system refuses.
        group: Which group's ranks agree; by default the one that training uses.

    Returns:
        What each rank's part gave, in rank order.

    Raises:
        RayllmError: On every rank, the first failed rank's.
    """
    outcome: tuple[T | None, RayllmError | None]
    try:
        outcome = part(), None
    except RayllmError as error:
        outcome = None, error
    except OSError as error:
        place = f"rank {rank()}" + (f", {where}" if where else "")
        outcome = None, RunFailed(f"{what} failed", where=place, why=error.strerror or str(error), fix=fix)
    outcomes = gather(outcome, group)
    for _, error in outcomes:
        if error is not None:
            raise error
    return [value for value, _ in outcomes]


def barrier() -> None:
    """Wait for all ranks."""
    sum_over_ranks(torch.zeros(1))
