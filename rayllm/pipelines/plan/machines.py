"""The machines that a run is planned for: this one, or a GPU by its name."""

import os
from dataclasses import dataclass
from typing import Literal

import psutil

from rayllm.core.errors import SetupError
from rayllm.pipelines.ray_runtime import has_gpu
from rayllm.pipelines.run_config import RunConfig
from rayllm.train.hardware import Device, find_device, known_device
from rayllm.train.metrics import known_gpu


@dataclass(frozen=True)
class Machines:
    """What the ranks of a run compute on.

    Attributes:
        device: Kind of device.
        name: Of the device, for people.
        world_size: Ranks.
        threads: Of each rank.
        bytes_per_rank: Memory of a rank's device; on a CPU the rank's share of the machine's.
        here: How many ranks of the run this machine can hold: those that can be probed.
        gpu: What is known of the GPU; None for CPUs, and GPUs of which nothing is.
    """

    device: Literal["cpu", "cuda"]
    name: str
    world_size: int
    threads: int
    bytes_per_rank: int
    here: int
    gpu: Device | None


def find_machines(config: RunConfig, named: str | None) -> Machines:
    """The machines of a run.

    Args:
        config: The run.
        named: A device of ``train.hardware``, or ``cpu``; by default what this machine has.

    Raises:
        ConfigError: If the name is not known.
        SetupError: If torch cannot use the GPU of this machine.
    """
    if named == "cpu" or (named is None and not has_gpu()):
        return _with_cpus(config)
    local = _local_gpus() if has_gpu() else []
    gpu = find_device(named) if named else known_device(local[0])
    if named is None:
        memory = _gpu_memory()
        return Machines("cuda", local[0], _ranks(config, len(local)), 1, memory, len(local), gpu)
    assert gpu is not None, "a device that was named is known"
    here = sum(known_gpu(name) == gpu.name for name in local)
    return Machines("cuda", gpu.name, _ranks(config, max(1, here)), 1, gpu.memory_bytes, here, gpu)


def choose_precision(config: RunConfig, machines: Machines) -> str:
    """What the run will compute in.

    Raises:
        SetupError: If the device cannot compute in what is asked for.
    """
    import torch

    from rayllm.train.precision import resolve_on_gpu, resolve_precision

    train, gpu = config.train, machines.gpu
    if gpu is not None:
        return resolve_on_gpu(train.precision, gpu.name, gpu.capability, train.fp8)
    return resolve_precision(train.precision, config.model.dim, torch.device(machines.device), train.fp8)


def _with_cpus(config: RunConfig) -> Machines:
    cpus = config.ray.num_cpus or os.cpu_count() or 1
    ranks = _ranks(config, min(2, cpus))
    here = min(ranks, cpus)
    threads = max(1, int(config.train.workers.cpus or cpus // here))
    memory = psutil.virtual_memory().total // here
    return Machines("cpu", f"{cpus} CPU{'s' if cpus > 1 else ''} of this machine", ranks, threads, memory, here, None)


def _ranks(config: RunConfig, default: int) -> int:
    """Workers of the run: the most, where their number is free within bounds."""
    return config.train.workers.bounds(default)[1]


def _gpu_memory() -> int:
    import torch

    return torch.cuda.get_device_properties(0).total_memory


def _local_gpus() -> list[str]:
    """Names of the GPUs of this machine.

    Raises:
        SetupError: If torch cannot use what is there.
    """
    import torch

    if not torch.cuda.is_available():
        raise SetupError(
            "this machine shows a GPU that torch cannot use",
            why=f"torch {torch.__version__} finds no CUDA device",
            fix="run `rayllm doctor`, or plan for the CPU: --device cpu",
        )
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
