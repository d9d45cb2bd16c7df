"""What the GPU benchmark runs: one model in one precision, by a plain loop or by an engine, compiled or not."""

from dataclasses import dataclass, replace

import torch
from support.engine_steps import Step
from torch import nn

from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.layers.kernels import KERNELS
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig
from rayllm.optim.schedules import Rates
from rayllm.train.config import Fp8Config
from rayllm.train.deepspeed_engine import DeepSpeedEngine
from rayllm.train.engine import Engine, TorchEngine, autocast
from rayllm.train.fp8 import convert

LR = 1e-4
SEED = 1


@dataclass(frozen=True)
class Bench:
    """Where and on what everything is measured.

    Attributes:
        device: Where.
        emulate: Round to fp8 and multiply in higher precision, where the device has no fp8.
        compiles: Whether torch's compiler is used where a setup asks for it.
    """

    device: torch.device
    emulate: bool
    compiles: bool


@dataclass(frozen=True)
class Setup:
    """One way to train.

    Attributes:
        precision: ``fp32``, ``bf16``, ``fp16`` or ``fp8``.
        recipe: Of fp8.
        attention: Kernel by name.
        compiled: Whether the model is.
        zero_stage: Of DeepSpeed; None: the plain engine.
    """

    precision: str = "fp32"
    recipe: str = "tensorwise"
    attention: str = "sdpa"
    compiled: bool = False
    zero_stage: int | None = None

    @property
    def name(self) -> str:
        """A few words for a table."""
        words = [f"fp8 {self.recipe}" if self.precision == "fp8" else self.precision]
        words += [] if self.attention == "sdpa" else [self.attention]
        words += ["compiled"] if self.compiled else []
        words += [] if self.zero_stage is None else [f"ZeRO-{self.zero_stage}"]
        return ", ".join(words)


def make_batch(model: ModelConfig, rows: int, length: int, document_tokens: int, device: torch.device) -> Batch:
    """Rows of random tokens in documents of about this length."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.resolved_vocab_size, (rows, length + 1), generator=generator)
    begins = torch.rand(rows, length, generator=generator) < 1 / document_tokens
    batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), begins.long().cumsum(1), tokens[:, 0] * 0)
    return batch.to(device)


def new_model(config: ModelConfig, setup: Setup, bench: Bench) -> Transformer:
    """The same weights each time, with the setup's products and kernels."""
    with torch.device(bench.device):
        model = Transformer(config)
    torch.manual_seed(SEED)
    for weight in model.parameters():
        if weight.ndim > 1:  # drawn on the device: for a billion weights the model's own draws take half a minute
            nn.init.normal_(weight, std=0.02)
    if setup.precision == "fp8":
        convert(model, Fp8Config.model_validate({"recipe": setup.recipe, "emulate": bench.emulate}))
    model.set_attention_kernel(KERNELS[setup.attention])
    return model


def new_engine(config: ModelConfig, setup: Setup, bench: Bench, rows: int, grad_clip: float = 1.0) -> Engine:
    """An engine that takes documents as its batches give them."""
    model = new_model(config, setup, bench)
    if setup.compiled and bench.compiles:
        model.compile_training()
    optimizer = AdamWConfig(lr=LR, grad_clip=grad_clip)
    if setup.zero_stage is None:
        return TorchEngine(model, optimizer, setup.precision, bench.device)
    return DeepSpeedEngine(
        model, optimizer, setup.precision, bench.device, zero_stage=setup.zero_stage, micro_batch_size=rows
    )


def engine_step(engine: Engine, batch: Batch, *, documents: bool) -> Step:
    """A step of an engine; without documents, rows are plainly causal."""
    seen = batch if documents else replace(batch, doc_ids=None)

    def step() -> float:
        loss = engine.token_losses(seen).sum() / batch.labels.numel()
        engine.backward(loss)
        engine.step(Rates(lr=LR))
        return loss.item()

    return step


def plain_step(config: ModelConfig, setup: Setup, bench: Bench, batch: Batch) -> Step:
    """A loop as anybody would write it: the whole model compiled, autocast, clip, fused AdamW."""
    model = new_model(config, setup, bench)
    run = torch.compile(model, dynamic=False) if bench.compiles else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> float:
        with autocast(bench.device, setup.precision):
            loss = run(batch.input_ids, batch.labels).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step
