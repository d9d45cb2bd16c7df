"""A model and training step in the manner of nanochat (Karpathy 2025), in plain PyTorch and float32, nothing of ours.

RMSNorm without weights (after the embedding too), rotary positions, QK norm, squared ReLU, no biases, ends not tied,
logits bounded by 15; AdamW for all, so that only the model's speed is compared. ``torch.compile`` is the caller's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm(x: Tensor) -> Tensor:
    """RMSNorm without weights."""
    return F.rms_norm(x, (x.shape[-1],))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of each head's channels."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class Block(nn.Module):
    """Attention and squared-ReLU feed-forward."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.up, self.down = nn.Linear(dim, 4 * dim, bias=False), nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, dim = x.shape
        y = norm(x)
        q, k, v = (part(y).view(rows, length, self.num_heads, -1) for part in (self.q, self.k, self.v))
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(rows, length, dim))
        return x + self.down(F.relu(self.up(norm(x))).square())


class Nanochat(nn.Module):
    """Token ids and targets to the mean loss."""

    def __init__(self, vocab_size: int, length: int, num_layers: int, num_heads: int, dim: int) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocab_size, dim), nn.Linear(dim, vocab_size, bias=False)
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(num_layers))
        channels = dim // num_heads
        angles = torch.outer(torch.arange(length), 10_000.0 ** -(torch.arange(0, channels, 2) / channels))
        self.register_buffer("cos", angles.cos()[None, :, None, :], persistent=False)
        self.register_buffer("sin", angles.sin()[None, :, None, :], persistent=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x = norm(self.tokens(ids))
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = 15 * torch.tanh(self.head(norm(x)) / 15)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))
