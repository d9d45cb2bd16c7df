"""Settings of the guards."""

from typing import Literal

from pydantic import Field, model_validator

from rayllm.core.config import RUNTIME, ConfigModel
from rayllm.train.objective_config import RISING_MEASURES


class EarlyStoppingConfig(ConfigModel):
    """Stop when a validation metric has not become better for a while."""

    metric: str = Field(
        default="mean_bits_per_byte",
        description="A metric of `validation` records: `mean_bits_per_byte`, `mean_loss`, `loss/<domain>` and others; "
        "by default, where replies are compared, `mean_preference_loss`.",
    )
    mode: Literal["min", "max"] = Field(default="min", description="Whether lower or higher is better.")
    patience: int = Field(default=5, ge=1, description="Validations in a row without a better value before the end.")
    min_delta: float = Field(default=0.0, ge=0, description="By how much a value must differ to be better.")

    @model_validator(mode="after")
    def _known_direction(self) -> "EarlyStoppingConfig":
        name = self.metric.removeprefix("mean_").partition("/")[0]
        if name in RISING_MEASURES and self.mode == "min":
            raise ValueError(
                f"of `{self.metric}` higher is better: early stopping would end a run that learns; set `mode: max`"
            )
        return self


class SpikesConfig(ConfigModel):
    """What counts as a spike of the loss, and what is done with its step."""

    z: float = Field(
        default=6.0, ge=0, description="Standard deviations above the mean of the window that make a spike; 0: none is."
    )
    window: int = Field(default=128, ge=32, le=128, description="Losses before the step that it is compared with.")
    action: Literal["report", "skip", "rollback"] = Field(
        default="report",
        description="`report`: an event; `skip`: the step's gradient is thrown away too, and the weights stay; "
        "`rollback`: the weights go back to a checkpoint before it, and the batches since are left out.",
    )
    margin_steps: int = Field(
        default=16,
        ge=1,
        description="`rollback` goes at least so many steps back from the spike, whose cause may lie before it.",
    )
    max_rollbacks: int = Field(
        default=3, ge=1, description="Roll-backs in a run; a spike after them ends it.", json_schema_extra=RUNTIME
    )


class GuardsConfig(ConfigModel):
    """What is watched while a run trains."""

    audit: bool = Field(
        default=True,
        description="Look at the first batch before training: labels, supervised share, a decoded piece.",
        json_schema_extra=RUNTIME,
    )
    stall_timeout_s: float = Field(
        default=600.0,
        ge=0,
        description="Seconds without progress on a rank after which it shows its stacks and ends, to be started again "
        "from the last checkpoint; 0: never. Collectives of gloo (30 minutes) and NCCL (10) give up by themselves.",
        json_schema_extra=RUNTIME,
    )
    slow_factor: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Report a speed below this share of the median of the last 20 readings; 0: never.",
        json_schema_extra=RUNTIME,
    )
    spikes: SpikesConfig = Field(default=SpikesConfig(), description="Spikes of the training loss.")
    early_stopping: EarlyStoppingConfig | None = Field(
        default=None, description="End the run when validation no longer gets better; null: never."
    )
