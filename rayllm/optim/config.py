"""Settings of the optimiser and of the learning-rate schedule."""

from typing import Literal

from pydantic import Field, model_validator

from rayllm.core.config import ConfigModel


class OptimizerConfig(ConfigModel):
    """AdamW with decoupled weight decay on matrices (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    lr: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="Decay of the first and second moment.")
    eps: float = Field(default=1e-8, gt=0, description="Added to the root of the second moment.")
    weight_decay: float = Field(default=0.1, ge=0, description="Decay of matrices per step, times the learning rate.")
    grad_clip: float = Field(
        default=1.0, ge=0, description="Largest global gradient norm; 0 leaves gradients as they are."
    )

    @model_validator(mode="after")
    def _betas_in_range(self) -> "OptimizerConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), not {self.betas}")
        return self


class ScheduleConfig(ConfigModel):
    """Warm-up, then decay."""

    kind: Literal["cosine", "linear", "constant"] = Field(default="cosine", description="Shape after the warm-up.")
    warmup_frac: float = Field(default=0.05, ge=0, lt=1, description="Share of all steps that warm up linearly from 0.")
    min_lr_frac: float = Field(default=0.1, ge=0, le=1, description="Learning rate at the end, as a share of the peak.")
