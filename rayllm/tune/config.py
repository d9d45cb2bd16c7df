"""Settings of a sweep."""

from pydantic import Field

from rayllm.core.config import RUNTIME, ConfigModel
from rayllm.tune.budget import BudgetConfig
from rayllm.tune.law.config import LawConfig
from rayllm.tune.schedulers import NoScheduler, SchedulerConfig
from rayllm.tune.space import Dimension, Settings


class TuneConfig(ConfigModel):
    """What a sweep tries, and how it judges."""

    space: dict[str, Dimension] = Field(
        ..., min_length=1, description="Dotted settings of the run file, each with the values to try."
    )
    scheduler: SchedulerConfig = Field(NoScheduler(), description="Which trials are ended early.")
    budget: BudgetConfig = Field(BudgetConfig(trials=8), description="What the sweep may cost.")
    baselines: list[Settings] = Field(
        [{}], description="Settings to try as they are, before the samples; `{}` is the run file itself."
    )
    seed: int = Field(0, ge=0, description="Seed of the samples; the trials train with the run's own seed.")
    objective: str = Field(
        "mean_bits_per_byte",
        description="Metric of the last validation to rank by, lowest first: `mean_bits_per_byte`, `mean_loss`, or "
        "`bits_per_byte/<domain>` and its like.",
    )
    law: LawConfig = Field(LawConfig(), description="How `--until-converged` looks for the best mixture.")
    max_steps: int | None = Field(
        None, ge=1, description="Steps of every trial, in place of the run's budget; `best.yaml` keeps the run's."
    )
    workers: int = Field(
        1,
        ge=1,
        description="Workers of a trial: with several, each trial is a run of its own on Ray Train.",
        json_schema_extra=RUNTIME,
    )
    cpus_per_trial: float = Field(1, gt=0, description="CPUs (and threads) of a trial.", json_schema_extra=RUNTIME)
    gpus_per_trial: float | None = Field(
        None, ge=0, description="GPUs of a trial; by default one where the cluster has any.", json_schema_extra=RUNTIME
    )
    keep_checkpoints: bool = Field(
        False, description="Keep the checkpoints of finished trials.", json_schema_extra=RUNTIME
    )
