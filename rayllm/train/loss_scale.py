"""Dynamic loss scaling: fp16's small gradients are lifted over its smallest number, and lowered again before the step.

The engines multiply a loss by ``LossScaler.scale`` before backward and divide gradients by it before they are clipped,
so that everything behind (norm, clipping, moments) sees true gradients. One scaler serves all engines and ZeRO stages:
DeepSpeed's own ones would decide on each rank and group of parameters for itself, and clip what is still scaled.
"""

from collections.abc import Mapping

import torch
from torch import nn

INITIAL_SCALE, SMALLEST_SCALE, LARGEST_SCALE = 2.0**16, 1.0, 2.0**24
#: Finite steps in a row before the scale is doubled.
GROWTH_STEPS = 2000


class LossScaler:
    """The factor on the loss: halved when a gradient overflows, doubled after ``GROWTH_STEPS`` without one.

    Args:
        dynamic: Whether there is anything to scale; without, the scale is 1 and stays so.

    Source: Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740, section 3.2; the numbers are those of
    ``torch.amp.GradScaler``.
    """

    def __init__(self, *, dynamic: bool) -> None:
        self.dynamic = dynamic
        self.scale = INITIAL_SCALE if dynamic else 1.0
        self._finite_steps = 0

    def update(self, *, finite: bool) -> bool:
        """Learn from a step, the same on all ranks.

        Args:
            finite: Whether all gradients of the step were.

        Returns:
            Whether the scale was lowered: then it, and not the model, may be what was too large.
        """
        if not self.dynamic:
            return False
        before = self.scale
        if not finite:
            self.scale, self._finite_steps = max(self.scale / 2, SMALLEST_SCALE), 0
            return self.scale < before
        self._finite_steps += 1
        if self._finite_steps == GROWTH_STEPS:
            self.scale, self._finite_steps = min(self.scale * 2, LARGEST_SCALE), 0
        return False

    def unscale(self, module: nn.Module) -> None:
        """Divide a module's gradients by the scale, in place; what is not finite stays so."""
        if self.dynamic:
            torch._foreach_mul_([p.grad for p in module.parameters() if p.grad is not None], 1.0 / self.scale)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps; nothing where there is nothing to scale."""
        return {"scale": self.scale, "finite_steps": float(self._finite_steps)} if self.dynamic else {}

    def load_state_dict(self, values: Mapping[str, float]) -> None:
        """Go on from a checkpoint; one that was trained in another precision has no values, and changes nothing."""
        if self.dynamic and values:
            self.scale, self._finite_steps = values["scale"], int(values["finite_steps"])
