"""Ranks for measurements: fresh processes joined in a gloo group, each with its share of the CPUs."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
import torch.distributed as dist


def cpus() -> int:
    """CPUs that this process may use."""
    return max(1, len(os.sched_getaffinity(0)))


def on_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Call a function on every rank of a new group; returns what each rank returned, in rank order.

    The function must be importable, since the processes are not forks of this one.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(world_size, mp_context=context) as pool:
        store = f"file://{scratch}/store"
        calls = [pool.submit(_call, function, rank, world_size, store, args) for rank in range(world_size)]
        return [call.result() for call in calls]


def join_group(rank: int, world_size: int, init_method: str) -> None:
    """Make this process a rank, with its share of the CPUs as threads."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    torch.set_num_threads(max(1, cpus() // world_size))
    dist.init_process_group("gloo", init_method=init_method, rank=rank, world_size=world_size)


def _call(function: Callable[..., Any], rank: int, world_size: int, store: str, args: tuple[Any, ...]) -> Any:
    join_group(rank, world_size, store)
    try:
        return function(*args)
    finally:
        dist.destroy_process_group()
