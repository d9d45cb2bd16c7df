"""Causal attention for training on short rows in bf16 on CPUs: torch's kernel forwards, matrix products backwards.

There torch's backward of SDPA is slow on short rows: with products on AMX both ways together take 0.4 of the time at 64
tokens and 0.7 at 128; from 256 on torch's, which skips what is masked, is the faster (torch 2.13, one thread).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Heads = Float[Tensor, "batch num_heads seq head_dim"]

#: Longest rows for which it pays, in tokens.
MAX_SEQ_LEN = 128


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
        scale = 1 / math.sqrt(q.shape[-1])
        future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        probabilities = ((q * scale) @ k.mT).masked_fill_(future, -torch.inf).softmax(-1)
        pull = (grad * out).sum(-1, keepdim=True)
        through = (grad @ v.mT).sub_(pull).mul_(probabilities)
        return (through @ k) * scale, (through.mT @ q) * scale, probabilities.mT @ grad
