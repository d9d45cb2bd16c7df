"""Attention over documents laid end to end: no mask, no work between documents, by the kernels of FlashAttention.

Two kernels take documents as offsets: torch's own ``varlen_attn``, and the package flash-attn, which knows linear
biases too. Both want CUDA and 16-bit numbers.

Source: Dao 2023, FlashAttention-2, arXiv:2307.08691.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayllm.model.compiler import uncompiled
from rayllm.model.layers.visibility import Keys, Outlook, Queries

PackedQueries = Float[Tensor, "tokens num_heads head_dim"]
PackedKeys = Float[Tensor, "tokens num_kv_heads head_dim"]


@dataclass(frozen=True)
class Spans:
    """Documents of all rows, one row after another.

    Attributes:
        bounds: Token at which each document begins, and the number of tokens, int32.
        longest: Tokens of the longest document.
        window: Tokens back that a query sees, itself included; None: all of its document.
        slopes: Taken from a head's scores for each token of distance; None: nothing.
    """

    bounds: Int[Tensor, " documents_and_one"]
    longest: int
    window: int | None
    slopes: Float[Tensor, " num_heads"] | None

    @property
    def window_size(self) -> tuple[int, int]:
        """Keys before and behind a query that it sees besides itself, -1 for all, as the kernels take it."""
        return (-1 if self.window is None else self.window - 1, 0)


PackedAttention = Callable[[PackedQueries, PackedKeys, PackedKeys, Spans], PackedQueries]


@dataclass(frozen=True)
class VarlenVisibility:
    """Each query sees its document's keys up to itself, as far as the window goes."""

    spans: Spans
    kernel: PackedAttention

    def attend(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """See ``visibility.Visibility``."""
        rows = q.shape[0]
        # (batch, heads, seq, head_dim) → (all tokens, heads, head_dim), and back
        packed = [part.transpose(1, 2).flatten(0, 1) for part in (q, k, v)]
        return self.kernel(packed[0], packed[1], packed[2], self.spans).unflatten(0, (rows, -1)).transpose(1, 2)


def varlen_over_rows(
    outlook: Outlook, kernel: PackedAttention, batch: int, seq: int, doc_ids: Int[Tensor, "batch seq"] | None,
    device: torch.device,
) -> VarlenVisibility:  # fmt: skip
    """For whole rows, each token in its document; see ``Outlook.over_rows``."""
    begins = torch.ones(batch, seq, dtype=torch.bool, device=device)
    begins[:, 1:] = False if doc_ids is None else doc_ids[:, 1:] != doc_ids[:, :-1]
    starts = begins.flatten().nonzero().flatten()
    bounds = torch.cat((starts, starts.new_tensor([batch * seq]))).int()
    longest = int(bounds.diff().max())
    return VarlenVisibility(Spans(bounds, longest, outlook.window, outlook.slopes), uncompiled(kernel))


def torch_varlen(q: PackedQueries, k: PackedKeys, v: PackedKeys, spans: Spans) -> PackedQueries:
    """By ``torch.nn.attention.varlen``; it knows no linear biases."""
    from torch.nn.attention.varlen import varlen_attn

    assert spans.slopes is None, "chosen for a model with linear biases"
    bounds, longest = spans.bounds, spans.longest
    out = varlen_attn(
        q, k, v, bounds, bounds, longest, longest, window_size=spans.window_size, enable_gqa=q.shape[1] != k.shape[1]
    )
    assert isinstance(out, Tensor)
    return out


def flash_varlen(q: PackedQueries, k: PackedKeys, v: PackedKeys, spans: Spans) -> PackedQueries:
    """By the package flash-attn; it finds groups of heads by their number."""
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    bounds, longest = spans.bounds, spans.longest
    return flash_attn_varlen_func(
        q, k, v, bounds, bounds, longest, longest,
        causal=True, window_size=spans.window_size, alibi_slopes=spans.slopes,
    )  # fmt: skip
