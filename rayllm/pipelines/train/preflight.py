"""Told before the first step: what the machine of this rank may be too small for."""

import os
import shutil

import psutil
import torch

from rayllm.core import storage
from rayllm.optim.config import WSDSchedule
from rayllm.optim.schedules import decay_start
from rayllm.pipelines.train.out_of_memory import in_words
from rayllm.train import collective
from rayllm.train.config import TrainConfig
from rayllm.train.memory.estimate import ample, checkpoint_bytes, estimate
from rayllm.train.memory.preflight import DISK_MARGIN, shortage
from rayllm.train.memory.setting import Setting


def kept_checkpoints(config: TrainConfig, begun: int, total_steps: int) -> int:
    """Checkpoints on the storage at a time, before any roll-back, which pins the one that it goes back to.

    They are the newest, the best, one in the making, the last before the learning rate decays, and one far enough back
    to roll back to.

    Args:
        config: What is kept.
        begun: Step of the checkpoint that the run forks, or 0.
        total_steps: Where it ends.
    """
    keep, schedule = config.checkpoint, config.schedule
    stable = keep.stable and isinstance(schedule, WSDSchedule) and decay_start(schedule, total_steps) > begun
    earlier = config.guards.spikes.action == "rollback"
    return keep.keep_last + (keep.best is not None) + stable + earlier + 1


def warn_of_shortage(setting: Setting, device: torch.device, checkpoints: str, kept: int) -> list[str]:
    """Lines for the record where memory or disk will likely not do; empty on ranks but the first.

    Args:
        setting: What decides the run's memory.
        device: Of this rank.
        checkpoints: URI of their directory.
        kept: How many of them there will be at a time.
    """
    if collective.rank() != 0:
        return []
    lines = []
    if ample(setting) > memory_of(device):  # else the second that an estimate takes is spared
        found = estimate(setting)
        lines = shortage("a rank of this run", found.total, memory_of(device))
        lines = [f"{line}; {in_words(setting, found)}" for line in lines]
    free = free_bytes(checkpoints)
    if free is not None:
        needed = kept * checkpoint_bytes(setting.model, setting.optimizer, lora=setting.lora)
        lines += shortage(f"{kept} checkpoints in {checkpoints}", needed, free, margin=DISK_MARGIN)
    return lines


def free_bytes(uri: str) -> int | None:
    """Bytes that the disk of a directory has left, which need not be there yet; None for object stores."""
    if not storage.is_local(uri):
        return None
    path = storage.local_path(uri)
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    return shutil.disk_usage(existing).free


def memory_of(device: torch.device) -> int:
    """All memory of a rank: of its GPU, or its share of the host's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total // int(os.environ.get("LOCAL_WORLD_SIZE", collective.world_size()))
