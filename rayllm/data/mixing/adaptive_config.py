"""Settings of a mixture whose weights move while the run trains."""

from typing import Annotated

from pydantic import Field, model_validator

from rayllm.core.config import ConfigModel


class AdaptiveConfig(ConfigModel):
    """Read more of the domains in which the model is worse than a reference was at as many tokens."""

    reference: str | dict[str, Annotated[float, Field(gt=0)]] = Field(
        ...,
        description="What to be measured against: the URI of another run or of its `metrics.jsonl`, whose validations "
        "are read at equal tokens, or bits per byte of each validation domain.",
    )
    every: int = Field(default=1, ge=1, description="Validations between two moves.")
    rate: float = Field(
        default=2.0,
        gt=0,
        description="A move multiplies a weight by e to the power of this times the domain's excess in bits per byte.",
    )
    smoothing: float = Field(
        default=0.5, ge=0, lt=1, description="Share of the earlier excess in the one that counts; 0: only the newest."
    )
    min_weight: float = Field(default=0.01, ge=0, lt=1, description="Share of the tokens below which no move takes.")
    max_weight: float = Field(default=1.0, gt=0, le=1, description="Share of the tokens above which no move takes.")
    max_change: float = Field(
        default=0.1, gt=0, le=1, description="Most that a domain's share of the tokens changes in one move."
    )
    domains: dict[str, str] | None = Field(
        default=None,
        description="Which training domain each validation domain speaks for; by default the one of its name. A "
        "training domain for which none speaks keeps its weight.",
    )

    @model_validator(mode="after")
    def _limits_leave_room(self) -> "AdaptiveConfig":
        if self.min_weight >= self.max_weight:
            raise ValueError(
                f"`min_weight` {self.min_weight:g} is not below `max_weight` {self.max_weight:g}: nothing could move"
            )
        return self
