"""The rows of a run's micro-batches: as the run file says, or, with ``auto``, as many as memory holds.

In: the config, the model, how the run computes. Out: rows by the length of a row, the same on every rank, and what
decides the run's memory with them. A run that goes on with as many ranks takes what its checkpoint remembers, so that
it computes the same bits; a fork with a row length that the other run did not have chooses anew.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch

from rayllm.data.mixing.stages import stage_shapes
from rayllm.model.config import ModelConfig
from rayllm.model.lora.adapt import adapt
from rayllm.model.transformer import Transformer
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.building import Compute
from rayllm.report.formats import data_size
from rayllm.train import collective
from rayllm.train.config import EngineConfig
from rayllm.train.engine import autocast
from rayllm.train.memory.estimate import engine_bytes, estimate
from rayllm.train.memory.micro_batch import FILLED, back_off, rows_by_length
from rayllm.train.memory.setting import FLOAT, Setting, largest, setting_of, settings_of
from rayllm.train.precision import AUTOCAST_DTYPES


@dataclass(frozen=True)
class MicroBatches:
    """What was chosen.

    Attributes:
        rows: Of a micro-batch, by the length of a row.
        setting: What decides the memory of the stage that needs most.
        memory: For ``RunState.micro_batches``; empty where the run file says how many rows.
        why: One line for the console, likewise.
    """

    rows: Mapping[int, int]
    setting: Setting
    memory: dict[str, Any]
    why: str

    def resolve(self, config: Config) -> Config:
        """The config with a number where ``auto`` was."""
        rows = self.rows[config.train.seq_len]
        return config.model_copy(update={"train": config.train.model_copy(update={"micro_batch_size": rows})})


def choose_micro_batches(
    config: Config, model: ModelConfig, engine: EngineConfig, compute: Compute, remembered: Mapping[str, Any]
) -> MicroBatches:
    """Choose; all ranks call it together.

    Args:
        config: The run.
        model: Sizes, with the vocabulary known.
        engine: Which engine.
        compute: Where and in what.
        remembered: ``RunState.micro_batches`` of the checkpoint that the run goes on from.
    """
    train = config.train.model_copy(update={"engine": engine})
    world_size = collective.world_size()
    device = "cuda" if compute.device.type == "cuda" else "cpu"
    setting = setting_of(train, model, compute.precision, device, world_size)
    asked = train.micro_batch_size
    shapes = stage_shapes(config.curriculum, train.seq_len, train.global_batch_tokens)
    lengths = {length for length, _ in shapes} | {train.seq_len}
    why, memory = "", {}
    if asked != "auto":
        rows = dict.fromkeys(lengths, asked)
    elif remembered.get("world_size") == world_size and all(str(length) in remembered["rows"] for length in lengths):
        memory = dict(remembered)
        rows = {int(length): count for length, count in memory["rows"].items()}
        why = f"{_told(rows)}, as before"
    else:
        free = _free_bytes(compute.device, world_size)
        rows = rows_by_length(setting, shapes, train.seq_len, int(FILLED * free))
        if device == "cuda":
            rows = {length: back_off(count, _trial(setting, length, compute)) for length, count in rows.items()}
        rows = {length: min(found[length] for found in collective.gather(rows)) for length in rows}
        memory = {"world_size": world_size, "rows": {str(length): count for length, count in rows.items()}}
        why = f"{_told(rows)}, chosen for {data_size(free)} of free memory"
    found = largest(settings_of(setting, shapes, rows))
    if asked == "auto":
        why += f"; about {data_size(estimate(found).total)} are needed"
    return MicroBatches(rows, found, memory, why)


def _told(rows: Mapping[int, int]) -> str:
    told = [f"{count} row{'s' if count > 1 else ''} of {length:,}" for length, count in sorted(rows.items())]
    return f"micro-batches of {', '.join(told)}"


def _free_bytes(device: torch.device, world_size: int) -> int:
    """What this rank may use: of a GPU what is free; of the host this process's share of what nobody else holds."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return psutil.virtual_memory().available // neighbours + psutil.Process().memory_info().rss


def _trial(setting: Setting, seq_len: int, compute: Compute) -> Callable[[int], None]:
    """A step's work on the device, before there is an engine that a failure could leave half done.

    What the engine will hold is reserved meanwhile. It fails with ``torch.OutOfMemoryError`` where that is too much.
    """

    def attempt(rows: int) -> None:
        trial = replace(setting, shape=replace(setting.shape, rows=rows, seq_len=seq_len), micro_batches=2)
        module = Transformer(setting.model)
        if setting.lora:
            adapt(module, setting.lora, AUTOCAST_DTYPES.get(compute.precision))
        module = module.to(compute.device)
        module.set_attention_kernel(compute.attention.kernel)
        reserved = max(0, engine_bytes(trial) - setting.weight_bytes - setting.trained * FLOAT)
        held = torch.empty(reserved, dtype=torch.uint8, device=compute.device)
        ids = torch.zeros(rows, seq_len, dtype=torch.int64, device=compute.device)
        try:
            with autocast(compute.device, compute.precision):
                losses = module(ids, ids, ids if setting.shape.document_mask else None)
            losses.sum().backward()
            torch.cuda.synchronize(compute.device)
        finally:
            del module, held, ids
            torch.cuda.empty_cache()

    return attempt
