"""Settings of the report."""

from pydantic import Field

from rayllm.core.config import ConfigModel


class ReportConfig(ConfigModel):
    """What the page shows."""

    title: str | None = Field(default=None, description="Title of the page; by default the name of the run.")
    curve_points: int = Field(default=600, ge=10, description="Points of a curve, at most; longer ones are thinned.")
    smoothing_frac: float = Field(
        default=0.01,
        ge=0,
        lt=0.5,
        description="Half-life of the smoothed training loss, as a share of the curve; 0 for none.",
    )
    samples_per_domain: int = Field(default=10, ge=0, description="Final samples of each domain to show, at most.")
    sweep: str | None = Field(default=None, description="URI of a `tune` artifact whose table of trials is shown too.")
