"""Settings of a sweep."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from rayllm.core.config import RUNTIME, ConfigModel
from rayllm.core.fork_config import ForkConfig
from rayllm.tune.budget import BudgetConfig
from rayllm.tune.law.config import LawConfig
from rayllm.tune.results import SEED
from rayllm.tune.samplers.config import RandomSearch, SamplerConfig
from rayllm.tune.schedulers import NoScheduler, SchedulerConfig
from rayllm.tune.significance_config import SignificanceConfig
from rayllm.tune.space import Dimension, Settings, check_conditions


class TuneConfig(ConfigModel):
    """What a sweep tries, and how it judges."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    space: dict[str, Dimension] = Field(
        ..., min_length=1, description="Dotted settings of the run file, each with the values to try."
    )
    sampler: SamplerConfig = Field(default=RandomSearch(), description="How settings are chosen.")
    scheduler: SchedulerConfig = Field(default=NoScheduler(), description="Which trials are ended early.")
    budget: BudgetConfig = Field(
        default=BudgetConfig(trials=8),
        description="What the sweep may cost; a sweep that has ended goes on when it is raised.",
        json_schema_extra=RUNTIME,
    )
    baselines: list[Settings | Literal["natural", "uniform"]] = Field(
        default=[{}],
        description="What to try before the samples: `natural` or `uniform` for that mixture, or settings; `{}` is the "
        "run file itself.",
    )
    replicates: int = Field(
        default=1,
        ge=1,
        description="Trials of each settings: the first has the run's own seed, the others the next ones.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of the search; the trials train with the run's own seed.")
    from_: ForkConfig | None = Field(
        default=None,
        alias="from",
        description="Checkpoint of a run that every trial goes on from, as with `train.fork`: a URI, or `{source: URI, "
        "step: stable}` for the last one before the learning rate decays.",
    )
    objective: str = Field(
        default="mean_bits_per_byte",
        description="What to lower: a metric of the last validation (`mean_bits_per_byte`, `mean_loss`, "
        "`bits_per_byte/<domain>`), or an expression such as `max(excess)`; see the page on sweeps.",
    )
    reference: str = Field(
        default="natural",
        description="What an `excess` is above, at as many tokens: the `natural` or the `uniform` mixture, trained as "
        "the first trial, or the URI of a `train` artifact.",
    )
    law: LawConfig = Field(default=LawConfig(), description="How `--until-converged` looks for the best mixture.")
    significance: SignificanceConfig = Field(
        default=SignificanceConfig(), description="What it takes to name a winner."
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps of every trial, in place of the run's budget; `best.yaml` keeps the run's.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        description="Workers of a trial: with several, each trial is a run of its own on Ray Train.",
        json_schema_extra=RUNTIME,
    )
    cpus_per_trial: float = Field(
        default=1, gt=0, description="CPUs (and threads) of a trial.", json_schema_extra=RUNTIME
    )
    gpus_per_trial: float | None = Field(
        default=None,
        ge=0,
        description="GPUs of a trial; by default one where the cluster has any.",
        json_schema_extra=RUNTIME,
    )
    price_per_hour: float | None = Field(
        default=None,
        ge=0,
        description="Price of a GPU (of a CPU where a trial holds none) for an hour, in any currency: the tables then "
        "say what each trial cost.",
        json_schema_extra=RUNTIME,
    )
    keep_checkpoints: bool = Field(
        default=False, description="Keep the checkpoints of finished trials.", json_schema_extra=RUNTIME
    )

    @model_validator(mode="after")
    def _can_be_searched(self) -> "TuneConfig":
        check_conditions(self.space)
        self.sampler.check(self.space)
        if self.replicates > 1 and SEED in self.space:
            raise ValueError("the space varies `seed`, and so does `replicates`: keep one of them")
        if self.scheduler.kind == "pbt" and self.sampler.kind in ("tpe", "cmaes"):
            raise ValueError("a population changes its own settings, so its sampler cannot learn: use `kind: random`")
        if self.scheduler.kind == "pbt" and self.workers > 1:
            raise ValueError("trials of a population stand still to hand over, which several workers cannot: set 1")
        limits = self.budget
        if limits.trials is None and limits.hours is None and limits.device_hours is None:
            raise ValueError("`budget` has no limit: set `trials`, `hours` or `device_hours`")
        return self
