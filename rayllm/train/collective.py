"""The few collectives of the control plane, on CPU tensors; with one process they do nothing."""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from rayllm.core.errors import RunFailed


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


def broadcast(value: Any) -> Any:
    """Rank 0's value of a plain Python object, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """A plain Python object of each rank, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    boxes: list[Any] = [None] * world_size()
    dist.all_gather_object(boxes, value)
    return boxes


def agree(problem: str, *, what: str, fix: str = "") -> None:
    """Let every rank go on only if none has a problem.

    Args:
        problem: This rank's problem, or an empty string.
        what: What was tried, for the message.
        fix: What the reader can do about it.

    Raises:
        RunFailed: On every rank, naming the first rank that has one.
    """
    for number, found in enumerate(gather(problem)):
        if found:
            raise RunFailed(f"{what} failed", where=f"rank {number}", why=found, fix=fix)


def barrier() -> None:
    """Wait for all ranks."""
    sum_over_ranks(torch.zeros(1))
