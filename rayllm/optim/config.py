"""Settings of the optimiser, of its groups of parameters, and of the learning-rate schedule."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayllm.core.config import ConfigModel


class GroupConfig(ConfigModel):
    """What one group of parameters does otherwise than the optimiser's own settings say."""

    lr_scale: float = Field(default=1.0, ge=0, description="Factor on the learning rate; 0 freezes the group.")
    weight_decay: float | None = Field(
        default=None,
        ge=0,
        description="Decoupled weight decay; by default the optimiser's for matrices and head, none for the others.",
    )


class GroupsConfig(ConfigModel):
    """The four groups of a model's parameters."""

    matrices: GroupConfig = Field(default=GroupConfig(), description="Weights of the linear layers inside the model.")
    embedding: GroupConfig = Field(
        default=GroupConfig(), description="Embedding matrices; where they are tied, the output matrix too."
    )
    head: GroupConfig = Field(default=GroupConfig(), description="An output matrix of its own.")
    vectors: GroupConfig = Field(default=GroupConfig(), description="Gains of norms and biases.")


class _Optimizer(ConfigModel):
    """What every optimiser has: a learning rate, AdamW's constants, decay, clipping, groups."""

    lr: float = Field(default=1e-3, gt=0, description="Peak learning rate.")
    betas: tuple[float, float] = Field(default=(0.9, 0.95), description="Decay of AdamW's first and second moment.")
    eps: float = Field(default=1e-8, gt=0, description="Added to the root of AdamW's second moment.")
    weight_decay: float = Field(
        default=0.1, ge=0, description="Decay of matrices and head per step, times the learning rate."
    )
    grad_clip: float = Field(
        default=1.0, ge=0, description="Largest global gradient norm; 0 leaves gradients as they are."
    )
    groups: GroupsConfig = Field(default=GroupsConfig(), description="Settings by group of parameters.")
    width_scaling: Literal["none", "mup", "sqrt"] = Field(
        default="none",
        description="How learning rates shrink with width: `mup` (AdamW's matrices and head by 1/width) or `sqrt` "
        "(AdamW's matrices, head and embedding by its root); Muon's matrices by what its update_scale needs.",
    )
    base_width: int = Field(
        default=256, ge=1, description="Width (`model.dim`) at which learning rates are as written; for width_scaling."
    )

    @model_validator(mode="after")
    def _betas_in_range(self) -> "_Optimizer":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), not {self.betas}")
        return self

    @model_validator(mode="after")
    def _base_width_is_used(self) -> "_Optimizer":
        if self.width_scaling == "none" and self.base_width != type(self).model_fields["base_width"].default:
            raise ValueError(
                f"base_width {self.base_width} is not used with width_scaling none; set width_scaling to mup or sqrt, "
                "or leave base_width out"
            )
        return self


class AdamWConfig(_Optimizer):
    """AdamW for all parameters (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    kind: Literal["adamw"] = Field(default="adamw", description="AdamW for all parameters.")


class MuonConfig(_Optimizer):
    """Muon for the matrices inside the model, AdamW for the rest (Jordan et al. 2024; Liu et al. 2025)."""

    kind: Literal["muon"] = Field(default="muon", description="Muon for matrices, AdamW for the rest.")
    momentum: float = Field(default=0.95, ge=0, lt=1, description="Momentum after its warm-up.")
    momentum_start: float = Field(default=0.85, ge=0, lt=1, description="Momentum of the first step.")
    momentum_warmup_steps: int = Field(
        default=300, ge=0, description="Steps in which momentum goes linearly from its start to its end; 0: at once."
    )
    nesterov: bool = Field(default=True, description="Look one step ahead along the momentum.")
    ns_coefficients: Literal["polar_express", "jordan"] = Field(
        default="polar_express",
        description="How matrices are orthogonalised: `polar_express` (Amsel et al. 2025) in four steps, or as torch's "
        "Muon does, `jordan`, in five: as good in training, for half again as many products.",
    )
    ns_steps: int | None = Field(
        default=None, ge=1, le=20, description="Newton-Schulz iterations; null: 4 of polar_express, 5 of jordan."
    )
    ns_dtype: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="What Newton-Schulz computes in; `auto`: bf16 where the hardware has it."
    )
    update_scale: Literal["rms", "spectral"] = Field(
        default="rms",
        description="Size of an update: `rms` 0.2 sqrt(max(rows, cols)), so that AdamW's learning rate and decay fit; "
        "`spectral` sqrt(max(1, rows / cols)), which wants a larger learning rate (try 0.02).",
    )


#: An optimiser, by its ``kind``.
OptimizerConfig = Annotated[AdamWConfig | MuonConfig, Field(discriminator="kind")]


class _Schedule(ConfigModel):
    """What every schedule has: a linear warm-up."""

    warmup_frac: float = Field(default=0.05, ge=0, lt=1, description="Share of all steps that warm up linearly from 0.")


class _Decaying(_Schedule):
    min_lr_frac: float = Field(default=0.1, ge=0, le=1, description="Lowest learning rate, as a share of the peak.")


class ConstantSchedule(_Schedule):
    """The peak, after the warm-up."""

    kind: Literal["constant"] = Field(default="constant", description="Stay at the peak.")


class CosineSchedule(_Decaying):
    """Half a cosine from the peak to the floor (Loshchilov & Hutter 2017, arXiv:1608.03983)."""

    kind: Literal["cosine"] = Field(default="cosine", description="Half a cosine down to the floor.")


class LinearSchedule(_Decaying):
    """A straight line from the peak to the floor."""

    kind: Literal["linear"] = Field(default="linear", description="A straight line down to the floor.")


class InverseSqrtSchedule(_Decaying):
    """Down with the root of the step, never below the floor (Vaswani et al. 2017, arXiv:1706.03762, section 5.3)."""

    kind: Literal["inverse_sqrt"] = Field(default="inverse_sqrt", description="Fall with the root of the step.")


class WSDSchedule(_Decaying):
    """Warm-up, stable, decay: a run can be made longer from its stable part (Hu et al. 2024, arXiv:2404.06395)."""

    kind: Literal["wsd"] = Field(default="wsd", description="Stay at the peak, then decay at the end.")
    decay_frac: float = Field(default=0.2, gt=0, le=1, description="Share of all steps that decay, at the end.")
    decay_shape: Literal["linear", "sqrt", "cosine"] = Field(
        default="sqrt", description="Way down: a line, `sqrt` (1 - sqrt(progress): steep, then flat), or half a cosine."
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> "WSDSchedule":
        if self.warmup_frac + self.decay_frac > 1:
            raise ValueError(
                f"warmup_frac {self.warmup_frac} and decay_frac {self.decay_frac} are more than the whole run; "
                f"set decay_frac to {1 - self.warmup_frac:g} or less"
            )
        return self


#: A learning-rate schedule, by its ``kind``.
ScheduleConfig = Annotated[
    ConstantSchedule | CosineSchedule | LinearSchedule | InverseSqrtSchedule | WSDSchedule,
    Field(discriminator="kind"),
]
