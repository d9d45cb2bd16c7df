"""Grouped-query attention."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from rayllm.model.config import ModelConfig
from rayllm.model.layers.norms import RMSNorm
from rayllm.model.layers.positions import Rotation, apply_rope
from rayllm.model.layers.visibility import Visibility

NewTokens = Float[Tensor, "batch num_kv_heads new head_dim"]
AllTokens = Float[Tensor, "batch num_kv_heads tokens head_dim"]


@runtime_checkable
class LayerMemory(Protocol):
    """What a block keeps of past tokens while decoding; see ``model.kv_cache``."""

    def append(self, keys: NewTokens, values: NewTokens) -> tuple[AllTokens, AllTokens]:
        """Remember the keys and values of new tokens, and give those of all tokens."""
        ...


class Attention(nn.Module):
    """Causal self-attention in which several query heads share a key and value head.

    Queries, keys and values come from one matrix (rows in this order). Each head of queries and keys is normalised,
    then rotated by its position, where the config says so.

    Args:
        config: Sizes.

    Source: Ainslie et al. 2023, GQA, arXiv:2305.13245, section 2.2; Dehghani et al. 2023, Scaling Vision Transformers
    to 22 Billion Parameters, arXiv:2302.05442, section 2 (QK normalisation).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.resolved_head_dim
        self.widths = [config.query_dim, config.kv_dim, config.kv_dim]
        self.qkv_proj = nn.Linear(config.dim, sum(self.widths), bias=config.bias)
        self.o_proj = nn.Linear(config.query_dim, config.dim, bias=config.bias)
        self.q_norm, self.k_norm = _head_norm(config), _head_norm(config)

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        rotation: Rotation | None,
        visibility: Visibility,
        memory: LayerMemory | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Mix each token with those that it sees.

        Args:
            x: The normalised residual stream.
            rotation: Angles of the positions of ``x``; None where positions are not rotary.
            visibility: Which keys each query sees, by whatever kernel.
            memory: Keys and values of past tokens; the new ones are added to it.
        """
        # (batch, seq, all channels) → (batch, seq, heads, head_dim), one view each
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in self.qkv_proj(x).split(self.widths, dim=-1))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = apply_rope(q, rotation), apply_rope(k, rotation)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if memory is not None:
            k, v = memory.append(k, v)
        return self.o_proj(visibility.attend(q, k, v).transpose(1, 2).flatten(2))


def _head_norm(config: ModelConfig) -> RMSNorm | None:
    if config.qk_norm == "none":
        return None
    return RMSNorm(config.resolved_head_dim, config.norm_eps, weighted=config.qk_norm == "weighted")
