"""How the next token is chosen. Pure: reading it needs no torch."""

from pydantic import Field

from rayllm.core.config import ConfigModel


class SamplingConfig(ConfigModel):
    """Choices of the sampler, applied in this order: temperature, top-k, top-p."""

    temperature: float = Field(
        default=0.8,
        ge=0,
        description="Divides the logits: below 1 is bolder, above 1 more varied, 0 takes the likeliest.",
    )
    top_k: int = Field(default=50, ge=0, description="Sample among this many likeliest tokens; 0 for all.")
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Sample among the fewest likeliest tokens that hold this probability; 1 for all.",
    )
