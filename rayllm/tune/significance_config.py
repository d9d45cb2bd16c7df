"""Settings of what a sweep must show before it names a winner."""

from pydantic import Field

from rayllm.core.config import ConfigModel


class SignificanceConfig(ConfigModel):
    """How sure a sweep must be of its winner, and what it spends on that."""

    level: float = Field(
        default=0.05, gt=0, lt=0.5, description="Chance to name a winner where there is none, for the whole sweep."
    )
    leaders: int = Field(
        default=2,
        ge=0,
        description="Best settings to train again with fresh seeds, beside the baselines; 0 for no such trials.",
    )
    seeds: int = Field(default=3, ge=2, description="Fresh seeds of each leader; the baselines get as many in all.")
    reserve_frac: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="Share of the budget's hours and device-hours that the search leaves for these trials; "
        "`budget.trials` does not count them.",
    )
