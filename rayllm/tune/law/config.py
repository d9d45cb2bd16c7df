"""Settings of the mixture law."""

from pydantic import Field

from rayllm.core.config import ConfigModel


class LawConfig(ConfigModel):
    """How `rayllm tune FILE --until-converged` looks for the best mixture."""

    until_converged: bool = Field(
        default=False,
        description="Look for the best mixture by a law, in rounds, in place of an ordinary sweep; what the option "
        "`--until-converged` sets.",
    )
    runs_per_domain: float = Field(
        default=4,
        ge=2,
        description="Trainings of the first round for each domain, natural and uniform weights among them.",
    )
    refine_per_domain: float = Field(
        default=2, gt=0, description="Trainings around the proposal for each domain, in every round after the first."
    )
    concentration: float = Field(
        default=1.0,
        gt=0,
        description="How near to the natural shares the first round stays: the Dirichlet parameters sum to this times "
        "the number of domains.",
    )
    pull: float = Field(
        default=0.002,
        ge=0,
        description="What a nat of Kullback-Leibler divergence from the natural shares costs, in units of the "
        "objective: of mixtures that are as good, the nearer one is proposed.",
    )
    seeds: int = Field(
        default=2,
        ge=2,
        description="Seeds, not used before, at which a proposal is trained beside what it has to beat.",
    )
    rounds: int = Field(default=3, ge=1, description="Most rounds of points, proposal and confirmation.")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Of all intervals.")
    bootstraps: int = Field(
        default=100, ge=20, description="Refits under random weights that the predicted intervals rest on."
    )
