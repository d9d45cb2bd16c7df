"""The feed-forward part of a block."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rayllm.model.config import ModelConfig

Activation = Callable[[Tensor], Tensor]


def relu_squared(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``max(x, 0)²``.

    Source: So et al. 2021, Primer, arXiv:2109.08668, section 4.
    """
    if torch.compiler.is_compiling():
        return F.relu(x).square()
    return _ReluSquared.apply(x)


class _ReluSquared(torch.autograd.Function):
    """With ``y = max(x, 0)²``: ``dx = 2 max(x, 0) dy``, two passes over memory where autograd takes six."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        kept = F.relu(x)
        ctx.save_for_backward(kept)
        return kept * kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (kept,) = ctx.saved_tensors
        return (grad * kept).mul_(2)


#: GELU by tanh, as GPT-2 and Gemma have it. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.
gelu: Activation = partial(F.gelu, approximate="tanh")

ACTIVATIONS: dict[str, Activation] = {
    "swiglu": F.silu,
    "geglu": gelu,
    "reglu": F.relu,
    "gelu": gelu,
    "relu2": relu_squared,
}


class GatedFeedForward(nn.Module):
    """``down(activation(gate(x)) * up(x))``, with gate and up as one matrix (gate's rows first).

    Args:
        config: Sizes, and which activation.

    Source: Shazeer 2020, GLU Variants Improve Transformer, arXiv:2002.05202, equations 5 and 6.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.feed_forward]
        self.gate_up_proj = nn.Linear(config.dim, 2 * config.ffn_dim, bias=config.bias)
        self.down_proj = nn.Linear(config.ffn_dim, config.dim, bias=config.bias)

    def forward(self, x: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch seq dim"]:
        """Apply to each token on its own."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(self.activation(gate) * up)


class PlainFeedForward(nn.Module):
    """``down(activation(up(x)))``.

    Args:
        config: Sizes, and which activation.

    Source: Vaswani et al. 2017, Attention Is All You Need, arXiv:1706.03762, section 3.3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.feed_forward]
        self.up_proj = nn.Linear(config.dim, config.ffn_dim, bias=config.bias)
        self.down_proj = nn.Linear(config.ffn_dim, config.dim, bias=config.bias)

    def forward(self, x: Float[Tensor, "batch seq dim"]) -> Float[Tensor, "batch seq dim"]:
        """Apply to each token on its own."""
        return self.down_proj(self.activation(self.up_proj(x)))


def make_feed_forward(config: ModelConfig) -> nn.Module:
    """The part that the config names."""
    return GatedFeedForward(config) if config.is_gated else PlainFeedForward(config)
