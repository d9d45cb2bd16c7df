"""AdamW that clips by the global norm and never lets a non-finite gradient reach the weights."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from rayllm.optim.config import OptimizerConfig


def param_groups(parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters: matrices decay, vectors (norm gains) do not."""
    trainable = [(name, parameter) for name, parameter in parameters if parameter.requires_grad]
    matrices = [parameter for _, parameter in trainable if parameter.ndim >= 2]
    vectors = [parameter for _, parameter in trainable if parameter.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_adamw(parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> "GuardedAdamW":
    """AdamW over named parameters, fused into one kernel per group where torch has one."""
    return GuardedAdamW(
        param_groups(parameters, config.weight_decay),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )


class GuardedAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW`` with global-norm clipping and a guard in front of its step.

    Under ZeRO 1 to 3 DeepSpeed clips and guards by itself over all ranks, and ``max_norm`` stays None.

    Attributes:
        max_norm: Clip to this norm (0: only measure); None leaves clipping and the guard to the caller.
        last_norm: Global gradient norm before clipping, of the last step.
        applied: Whether the last step changed the weights.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_norm: float | None = None
        self.last_norm = 0.0
        self.applied = True

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Clip and update, or skip a step whose gradient is not finite."""
        if self.max_norm is not None:
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            norms = torch._foreach_norm(gradients)
            norm = torch.linalg.vector_norm(torch.stack([n.float() for n in norms]))
            self.last_norm = float(norm)
            self.applied = math.isfinite(self.last_norm)
            if not self.applied:
                return
            if 0 < self.max_norm < self.last_norm:
                torch._foreach_mul_(gradients, self.max_norm / (self.last_norm + 1e-6))
        super().step(closure)

    def create_state(self, parameter: torch.Tensor) -> None:
        """Make the empty moments that AdamW would make at its first step, so that a checkpoint can fill them."""
        self.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
