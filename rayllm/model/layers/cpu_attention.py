"""Causal attention for training on short rows in bf16 on CPUs: torch's kernel forwards, matrix products backwards.

There torch's backward of SDPA leaves most of a processor's bf16 idle. As matrix products over blocks of queries, each
with the keys up to its end, forward and backward together take 0.4 to 0.5 of the time at 64 tokens and 0.7 to 0.8 at
512; at 1024 there is nothing to gain (torch 2.13).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Heads = Float[Tensor, "batch num_heads seq head_dim"]

#: Longest rows for which it pays, in tokens.
MAX_SEQ_LEN = 512
#: Queries whose probabilities exist at a time: few, so that little of what they do not see is computed.
BLOCK = 128


def pays(q: Heads) -> bool:
    """Whether attention over rows of these queries trains faster here."""
    return q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[2] <= MAX_SEQ_LEN and q.requires_grad


def cpu_causal_attention(q: Heads, k: Heads, v: Heads) -> Heads:
    """Each query over the keys up to its own; gradients by recomputing the probabilities.

    Args:
        q: Queries.
        k: Keys, as many heads.
        v: Values.

    Source: Dao et al. 2022, FlashAttention, arXiv:2205.14135, appendix B.2 (the gradients).
    """
    return _CausalAttention.apply(q, k, v)


class _CausalAttention(torch.autograd.Function):
    """With ``P = softmax(s q kᵀ)`` and ``o = P v``: ``dv = Pᵀ do``, ``ds = P (do vᵀ - Σ do o)``, ``dq = s ds k``."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, out = ctx.saved_tensors
        shape, scale = q.shape, 1 / math.sqrt(q.shape[-1])
        pull = (grad * out).sum(-1, keepdim=True)
        q, k, v, grad, pull = (part.flatten(0, 1) for part in (q * scale, k, v, grad, pull))
        blocks = [slice(start, min(start + BLOCK, shape[2])) for start in range(0, shape[2], BLOCK)]
        parts = [
            _gradients(q[:, block], k[:, : block.stop], v[:, : block.stop], grad[:, block], pull[:, block])
            for block in blocks
        ]
        dq, dk, dv = zip(*parts, strict=True)
        return (torch.cat(dq, 1) * scale).view(shape), _sum(dk, blocks).view(shape), _sum(dv, blocks).view(shape)


def _gradients(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, pull: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a block of queries, scaled, that stand last among these keys; (batch and heads, tokens, head_dim) all."""
    scores = torch.bmm(q, k.mT)
    future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1 + k.shape[1] - q.shape[1])
    probabilities = scores.masked_fill_(future, -torch.inf).softmax(-1)
    through = torch.bmm(grad, v.mT).sub_(pull).mul_(probabilities)
    return torch.bmm(through, k), torch.bmm(through.mT, q), torch.bmm(probabilities.mT, grad)


def _sum(parts: Sequence[Tensor], blocks: Sequence[slice]) -> Tensor:
    """What the keys get from every block of queries that sees them, in float32 as long as it is added up."""
    if len(parts) == 1:
        return parts[0]
    sums = []
    for index, keys in enumerate(blocks):
        total = parts[index][:, keys].float()
        for later in parts[index + 1 :]:
            total = total + later[:, keys]
        sums.append(total.to(parts[index].dtype))
    return torch.cat(sums, 1)
