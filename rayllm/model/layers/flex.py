"""Attention by FlexAttention: masks are functions of two positions, and blocks that are all masked cost nothing.

Source: Dong et al. 2024, Flex Attention, arXiv:2412.05496.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from rayllm.model.compiler import compiler_on, uncompiled
from rayllm.model.layers.visibility import Keys, Outlook, Queries


@dataclass(frozen=True)
class FlexVisibility:
    """Which keys each query sees, as FlexAttention takes it.

    Attributes:
        blocks: Which blocks of keys each block of queries sees, and the function within them.
        slopes: Taken from a head's scores for each token of distance; None: nothing.
        run: ``flex_attention``, compiled or (on a CPU, forward only) as it is.
    """

    blocks: BlockMask
    slopes: Float[Tensor, " num_heads"] | None
    run: Callable[..., Any]

    def attend(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """See ``visibility.Visibility``."""
        grouped = q.shape[1] != k.shape[1]
        return self.run(q, k, v, score_mod=self._score_mod(), block_mask=self.blocks, enable_gqa=grouped)

    def _score_mod(self) -> Callable[..., Tensor] | None:
        slopes = self.slopes
        if slopes is None:
            return None
        return lambda score, batch, head, query, key: score - slopes[head] * (query - key)


def flex_over_rows(
    outlook: Outlook, seq: int, doc_ids: Int[Tensor, "batch seq"] | None, device: torch.device
) -> FlexVisibility:
    """For whole rows, each token in its document; see ``Outlook.over_rows``."""
    rows = None if doc_ids is None else doc_ids.shape[0]
    make, run = _compiled() if device.type == "cuda" else (create_block_mask, flex_attention)
    sees = _mask_mod(outlook.window or seq, doc_ids)
    return FlexVisibility(make(sees, rows, None, seq, seq, device=device), outlook.slopes, run)


def _mask_mod(reach: int, doc_ids: Int[Tensor, "batch seq"] | None) -> Callable[..., Tensor]:
    """Whether a query sees a key, at most ``reach`` tokens back, itself included; positions are single numbers.

    Lambdas, since FlexAttention counts a function's arguments and compiles it: nothing may be wrapped around it.
    """
    if doc_ids is None:
        return lambda batch, head, query, key: (query >= key) & (query - key < reach)
    return lambda batch, head, query, key: (
        (query >= key) & (query - key < reach) & (doc_ids[batch, query] == doc_ids[batch, key])
    )


@functools.cache
def _compiled() -> tuple[Callable[..., BlockMask], Callable[..., Any]]:
    """Uncompiled, FlexAttention would write out all scores, and the mask all pairs of positions."""
    with compiler_on():
        return torch.compile(create_block_mask), uncompiled(torch.compile(flex_attention))
