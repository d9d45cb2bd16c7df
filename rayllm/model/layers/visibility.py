"""Who may look at whom, and with what bias: one value that every block hands to attention.

In: where queries and keys stand, which document they are of, how far a layer sees, the slopes of linear biases. Out: a
``Visibility``, which knows the kernel that computes attention under it. Here is the one that runs everywhere, torch's
SDPA: plain causal attention needs no mask and keeps its fastest kernel, everything else is a mask. Kernels for GPUs
that need no mask in memory are in ``layers.flex`` and ``layers.varlen``, chosen by ``layers.kernels``.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rayllm.model.layers.cpu_attention import cpu_causal_attention, pays

Mask = Bool[Tensor, "#batch 1 queries keys"] | Float[Tensor, "#batch num_heads queries keys"]
Queries = Float[Tensor, "batch num_heads queries head_dim"]
Keys = Float[Tensor, "batch num_kv_heads keys head_dim"]


@runtime_checkable
class Visibility(Protocol):
    """Which keys each query sees."""

    def attend(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """Scaled dot-product attention; query head ``h`` uses key head ``h // (num_heads // num_kv_heads)``."""
        ...


@dataclass(frozen=True)
class DenseVisibility:
    """Causal, or by an explicit mask; neither means that every query sees all keys.

    Attributes:
        is_causal: Every token sees itself and all before it; there is no mask then.
        mask: True where a query sees a key; or what is added to its score, minus infinity where it does not.
    """

    is_causal: bool
    mask: Mask | None = None

    def attend(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """See ``Visibility``; by torch's fused kernels."""
        groups, mask = q.shape[1] // k.shape[1], self.mask
        if groups > 1 and q.is_cuda and mask is not None:
            # The CUDA kernel that takes a mask knows no groups; with enable_gqa torch would write out the score matrix.
            k, v, groups = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1), 1
        if mask is not None and mask.is_floating_point():
            mask = mask.to(q.dtype)
        if self.is_causal and pays(q):
            k, v = (part if groups == 1 else part.repeat_interleave(groups, dim=1) for part in (k, v))
            return cpu_causal_attention(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.is_causal, enable_gqa=groups > 1)


@dataclass(frozen=True)
class Outlook:
    """What decides the visibility in a layer.

    Attributes:
        window: Tokens back that a query sees, itself included; None: all.
        slopes: Taken from a head's scores for each token of distance; None: nothing.
    """

    window: int | None = None
    slopes: Float[Tensor, " num_heads"] | None = None

    def is_plain(self, seq: int) -> bool:
        """Whether a row of one document is seen by plain causal attention."""
        return self.slopes is None and (self.window is None or self.window >= seq)

    def over_rows(self, seq: int, doc_ids: Int[Tensor, "batch seq"] | None, device: torch.device) -> DenseVisibility:
        """For whole rows, each token in its document.

        Args:
            seq: Tokens of a row.
            doc_ids: Document of each token; None: a row is one document.
            device: Where the activations are.
        """
        if doc_ids is None and self.is_plain(seq):
            return DenseVisibility(is_causal=True)
        places = torch.arange(seq, device=device)
        seen = _seen(places[None], places, self.window)
        if doc_ids is not None:
            seen = seen & (doc_ids[:, None, :, None] == doc_ids[:, None, None, :])
        return self._visibility(seen, places[None], places)

    def over_cache(self, positions: Int[Tensor, "batch queries"], num_keys: int) -> DenseVisibility:
        """For new tokens behind cached ones.

        Args:
            positions: Where each new token of each row stands.
            num_keys: Tokens that the longest row holds, new ones included.
        """
        places = torch.arange(num_keys, device=positions.device)
        return self._visibility(_seen(positions, places, self.window), positions, places)

    def _visibility(
        self,
        seen: Bool[Tensor, "#batch 1 queries keys"],
        positions: Int[Tensor, "rows queries"],
        places: Int[Tensor, " keys"],
    ) -> DenseVisibility:
        if self.slopes is None:
            return DenseVisibility(is_causal=False, mask=seen)
        distance = (positions[:, None, :, None] - places).float()
        bias = -self.slopes[:, None, None] * distance
        return DenseVisibility(is_causal=False, mask=bias.masked_fill(~seen, -torch.inf))


def _seen(
    positions: Int[Tensor, "rows queries"], places: Int[Tensor, " keys"], window: int | None
) -> Bool[Tensor, "rows 1 queries keys"]:
    distance = positions[:, None, :, None] - places
    seen = distance >= 0
    return seen if window is None else seen & (distance < window)
