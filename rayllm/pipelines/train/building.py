"""The parts of a session that compute: precision and kernels chosen for the machine, the engine around a model.

What was chosen is written to ``environment.json`` and said on the console.
"""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from rayllm.core import storage
from rayllm.core.artifact import versions
from rayllm.data.shards.cache import default_cache_dir
from rayllm.model.compiler import CompileChoice, choose_compile, keep_kernels
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.model.layers.kernels import KernelChoice, choose_kernel
from rayllm.model.lora.adapt import adapt, draw_adapters
from rayllm.model.transformer import Transformer
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.initial import load_initial
from rayllm.train.config import EngineConfig, Precision, TrainConfig
from rayllm.train.engine import Engine, TorchEngine
from rayllm.train.fp8 import PAYS_FROM_DIM, convert
from rayllm.train.precision import AUTOCAST_DTYPES, resolve_precision

#: What a run ran on, beside its metrics.
ENVIRONMENT = "environment.json"


@dataclass(frozen=True)
class Compute:
    """How a rank computes: the same on all ranks of a run, since their machines are alike.

    Attributes:
        device: Where.
        precision: In what.
        attention: By which kernel.
        compiled: Whether by code that torch compiled.
    """

    device: torch.device
    precision: Precision
    attention: KernelChoice
    compiled: CompileChoice

    def describe(self) -> str:
        """One line for the console."""
        compiled = "compiled" if self.compiled.enabled else "not compiled"
        return (
            f"computes in {self.precision}, attention by {self.attention.name} ({self.attention.why}), "
            f"{compiled} ({self.compiled.why})"
        )

    def warnings(self, model: ModelConfig) -> list[str]:
        """What was asked for and is done, but may not be what was meant."""
        if self.precision != "fp8" or model.dim >= PAYS_FROM_DIM:
            return []
        return [f"fp8 at width {model.dim} is likely slower than bf16: it pays from about {PAYS_FROM_DIM} up"]


def choose_compute(
    config: TrainConfig, precision: str, model: ModelConfig, device: torch.device, engine: EngineConfig
) -> Compute:
    """Look at the machine, and choose what the config leaves open.

    Args:
        config: Settings of training.
        precision: What is asked for: the config's, or that of the checkpoint that the run goes on from.
        model: Its sizes.
        device: Where this rank computes.
        engine: Which engine; a trial's is not the config's.

    Raises:
        SetupError: If the machine cannot do what was asked for by name.
    """
    resolved = resolve_precision(precision, model.dim, device, config.fp8)
    half = resolved in AUTOCAST_DTYPES
    attention = choose_kernel(config.attention, device, model, half=half, document_mask=config.document_mask)
    selective = config.activation_checkpointing == "selective"
    compiled = choose_compile(
        config.compile, device, precision=resolved, sharded=engine.shards_parameters, selective=selective
    )
    return Compute(device, resolved, attention, compiled)


def build_engine(
    config: Config,
    model: ModelConfig,
    engine: EngineConfig,
    compute: Compute,
    init: str | None = None,
    packed_uri: str = "",
) -> Engine:
    """The model with its initial weights, the same on every rank, inside an engine; with adapters, if it trains those.

    Args:
        config: The run.
        model: With the vocabulary known.
        engine: Which engine.
        compute: Where, in what and by which kernels.
        init: Where its weights come from, as in `train.init`; None for new ones, and where a checkpoint of all of them
            will be restored anyway.
        packed_uri: The packed data, whose tokenizer must be that of ``init``.
    """
    module = Transformer(model)
    module.init_weights(config.seed)
    if init:
        load_initial(init, module, packed_uri)
    if config.train.lora:
        adapt(module, config.train.lora, AUTOCAST_DTYPES.get(compute.precision))
        draw_adapters(module, config.seed)
    if compute.precision == "fp8":
        convert(module, config.train.fp8)
    module.set_attention_kernel(compute.attention.kernel)
    module.set_activation_checkpointing(config.train.activation_checkpointing)
    module.set_z_loss(config.train.z_loss)
    if compute.compiled.enabled:
        keep_kernels(default_cache_dir() / "compiled")
        module.compile_training()
    optimizer, document_mask = config.train.optimizer, config.train.document_mask
    if engine.kind == "torch":
        return TorchEngine(module, optimizer, compute.precision, compute.device, document_mask=document_mask)
    from rayllm.train.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(
        module,
        optimizer,
        compute.precision,
        compute.device,
        zero_stage=engine.zero_stage,
        micro_batch_size=config.train.micro_batch_rows,
        document_mask=document_mask,
        offload_optimizer=engine.offload_optimizer,
        offload_parameters=engine.offload_parameters,
    )


def write_environment(
    directory: str,
    config: TrainConfig,
    model: ModelConfig,
    engine: Engine,
    compute: Compute,
    micro_batch_rows: Mapping[int, int],
) -> None:
    """What the run ran on, for the report and for whoever wants the same bits again: ``environment.json``."""
    found = {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "device": torch.cuda.get_device_name() if compute.device.type == "cuda" else "cpu",
        "world_size": engine.world_size,
        "threads": torch.get_num_threads(),
        "precision": compute.precision,
        "fp8": config.fp8.model_dump() if compute.precision == "fp8" else None,
        "attention": {"kernel": compute.attention.name, "why": compute.attention.why},
        "compile": {"enabled": compute.compiled.enabled, "why": compute.compiled.why},
        "engine": config.engine.model_dump(),
        "micro_batch_rows": {str(length): rows for length, rows in micro_batch_rows.items()},
        "parameters": count_parameters(model).total,
    }
    storage.write_text(storage.join(directory, ENVIRONMENT), json.dumps(found, indent=1))
