"""A GPT-2 and its training step as small reference loops write them: plain PyTorch, float32, eager, nothing of ours.

The shape and the settings are those published for nanoGPT (Karpathy 2022): pre-LayerNorm, learned positions, fused QKV,
exact GELU, no biases where asked, tied ends, normal 0.02 with residual projections divided by ``sqrt(2 layers)``, AdamW
with decay on matrices only, clipping at 1, linear warm-up, then half a cosine.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Sizes:
    """Numbers of the model."""

    vocab_size: int
    block_size: int
    num_layers: int
    num_heads: int
    dim: int


@dataclass(frozen=True)
class Settings:
    """Numbers of the loop: nanoGPT's for characters on a small machine."""

    max_steps: int = 2000
    warmup_steps: int = 100
    lr: float = 1e-3
    min_lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.1
    grad_clip: float = 1.0


class Block(nn.Module):
    """Attention, then a feed-forward part four times as wide."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.num_heads = sizes.num_heads
        self.ln_1, self.ln_2 = nn.LayerNorm(sizes.dim, bias=False), nn.LayerNorm(sizes.dim, bias=False)
        self.qkv = nn.Linear(sizes.dim, 3 * sizes.dim, bias=False)
        self.attn_out = nn.Linear(sizes.dim, sizes.dim, bias=False)
        self.up = nn.Linear(sizes.dim, 4 * sizes.dim, bias=False)
        self.mlp_out = nn.Linear(4 * sizes.dim, sizes.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, dim = x.shape
        q, k, v = self.qkv(self.ln_1(x)).split(dim, dim=2)
        q, k, v = (part.view(rows, length, self.num_heads, -1).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_out(mixed.transpose(1, 2).contiguous().view(rows, length, dim))
        return x + self.mlp_out(F.gelu(self.up(self.ln_2(x))))


class GPT2(nn.Module):
    """Token ids and targets to the mean loss."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.tokens = nn.Embedding(sizes.vocab_size, sizes.dim)
        self.positions = nn.Embedding(sizes.block_size, sizes.dim)
        self.blocks = nn.ModuleList(Block(sizes) for _ in range(sizes.num_layers))
        self.ln_f = nn.LayerNorm(sizes.dim, bias=False)
        self.head = nn.Linear(sizes.dim, sizes.vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                shrink = math.sqrt(2 * sizes.num_layers) if name.endswith("_out.weight") else 1.0
                nn.init.normal_(parameter, mean=0.0, std=0.02 / shrink)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


class Loop:
    """Steps of training."""

    def __init__(self, sizes: Sizes, settings: Settings, seed: int) -> None:
        torch.manual_seed(seed)
        self.model, self.settings = GPT2(sizes), settings
        matrices = [p for p in self.model.parameters() if p.ndim >= 2]
        vectors = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas)

    def lr(self, step: int) -> float:
        """Learning rate of a step, from 0."""
        settings = self.settings
        if step < settings.warmup_steps:
            return settings.lr * (step + 1) / (settings.warmup_steps + 1)
        progress = (step - settings.warmup_steps) / (settings.max_steps - settings.warmup_steps)
        return settings.min_lr + 0.5 * (1 + math.cos(math.pi * progress)) * (settings.lr - settings.min_lr)

    def step(self, step: int, ids: Tensor, targets: Tensor) -> float:
        """Forward, backward, clip, AdamW; the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        loss = self.model(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()
