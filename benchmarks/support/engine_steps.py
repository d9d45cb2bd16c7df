"""One training step, as a plain PyTorch loop takes it and as our engine on DeepSpeed does.

Both train the same model from the same weights on the same rows with AdamW and clipping; on several ranks the plain
loop is PyTorch's ``DistributedDataParallel``. A step returns the loss of the global batch.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rayllm.data.batches import Batch
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig
from rayllm.optim.schedules import Rates
from rayllm.train.deepspeed_engine import DeepSpeedEngine
from rayllm.train.engine import autocast

LR, CLIP = 1e-4, 1.0
CPU = torch.device("cpu")
Step = Callable[[], float]


def make_batch(model: ModelConfig, rows: int, length: int, seed: int) -> Batch:
    """Random tokens: speed does not depend on them."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.resolved_vocab_size, (rows, length + 1), generator=generator)
    ids, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    return Batch(ids, labels, torch.zeros_like(ids), torch.zeros(rows, dtype=torch.int64))


def new_model(config: ModelConfig) -> Transformer:
    """The same weights each time."""
    model = Transformer(config)
    model.init_weights(1)
    return model


def plain_step(config: ModelConfig, precision: str, batch: Batch) -> Step:
    """A loop as anybody would write it: forward, backward, clip, fused AdamW."""
    model = new_model(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    several = dist.get_world_size() > 1
    module = DistributedDataParallel(model, gradient_as_bucket_view=True) if several else model

    def step() -> float:
        with autocast(CPU, precision):
            loss = module(batch.input_ids, batch.labels).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return mean_over_ranks(loss)

    return step


def engine_step(config: ModelConfig, precision: str, batch: Batch, zero_stage: int) -> Step:
    """The same step through our engine."""
    engine = DeepSpeedEngine(
        new_model(config),
        AdamWConfig(lr=LR, grad_clip=CLIP),
        precision,
        CPU,
        zero_stage=zero_stage,
        micro_batch_size=len(batch.input_ids),
        document_mask=False,
    )

    def step() -> float:
        loss = engine.token_losses(batch).sum() / batch.labels.numel()
        engine.backward(loss / dist.get_world_size())
        engine.step(Rates(lr=LR))
        return mean_over_ranks(loss)

    return step


def mean_over_ranks(loss: Tensor) -> float:
    """The loss of the global batch, which also lets the ranks end a step together."""
    total = loss.detach().clone()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
