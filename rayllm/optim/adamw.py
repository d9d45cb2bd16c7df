"""AdamW as a rule of a group, by torch's fused kernel where there is one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from rayllm.optim.config import AdamWConfig, MuonConfig
from rayllm.optim.layout import Piece

#: Kinds of device that have the fused kernel.
FUSED = ("cpu", "cuda")


class AdamWRule:
    """Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2.

    Args:
        config: Where its constants stand.
    """

    def __init__(self, config: AdamWConfig | MuonConfig) -> None:
        self._betas, self._eps = config.betas, config.eps

    def new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        """Empty moments, and the number of steps that the bias correction needs."""
        return {
            "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
            "exp_avg": torch.zeros_like(tensor),
            "exp_avg_sq": torch.zeros_like(tensor),
        }

    def arrange(self, tensors: Sequence[Tensor], pieces: Sequence[Sequence[Piece]], rank: int) -> None:
        """Nothing to do: every element is updated on its own."""

    def update(self, tensors: Sequence[Tensor], states: Sequence[dict[str, Tensor]], group: dict[str, Any]) -> None:
        """Update tensors that have a gradient; others stay, their moments too."""
        pairs = [(tensor, state) for tensor, state in zip(tensors, states, strict=True) if tensor.grad is not None]
        if not pairs:
            return
        gradients = [tensor.grad for tensor, _ in pairs if tensor.grad is not None]
        fused, shrink, divisor = all(tensor.device.type in FUSED for tensor, _ in pairs), group["shrink"], None
        if shrink != 1 and fused:  # the kernel divides on its way, which spares a pass over the gradients
            divisor = torch.tensor(1 / shrink, dtype=torch.float32, device=gradients[0].device)
        elif shrink != 1:
            torch._foreach_mul_(gradients, shrink)
        adamw(
            [tensor for tensor, _ in pairs],
            gradients,
            [state["exp_avg"] for _, state in pairs],
            [state["exp_avg_sq"] for _, state in pairs],
            [],
            [state["step"] for _, state in pairs],
            fused=fused,
            grad_scale=divisor,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=self._eps,
            maximize=False,
        )
