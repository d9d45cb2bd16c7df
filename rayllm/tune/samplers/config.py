"""Settings of samplers: which there are, what each can search, and how each is built."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.core.errors import ConfigError
from rayllm.tune.dimensions import Choice, Grid
from rayllm.tune.objective import Objective
from rayllm.tune.samplers.model_based import ModelSampler, cma_es, tpe
from rayllm.tune.samplers.random import RandomSampler
from rayllm.tune.samplers.sampler import ListSampler, Sampler
from rayllm.tune.space import Dimension, Settings, Space, combinations, listed


class RandomSearch(ConfigModel):
    """Independent draws, each with every combination of the grids."""

    kind: Literal["random"] = Field(default="random", description="Independent draws.")

    def check(self, dimensions: Mapping[str, Dimension]) -> None:
        """Every space can be drawn from."""

    def everything(self, space: Space) -> list[Settings] | None:
        """All that it will ever propose; None for an endless search."""
        return None if space.has_chance else space.sample(0, 0)

    def build(self, space: Space, objective: Objective, seed: int) -> Sampler:
        """The sampler."""
        return RandomSampler(space, seed)


class GridSearch(ConfigModel):
    """Every combination of grids, choices and whole numbers."""

    kind: Literal["grid"] = Field(default="grid", description="Every combination of the values.")

    def check(self, dimensions: Mapping[str, Dimension]) -> None:
        """Refuse what has no list of values.

        Raises:
            ValueError: Naming the setting.
        """
        for path, dimension in dimensions.items():
            listed(path, dimension)

    def everything(self, space: Space) -> list[Settings] | None:
        """All that it will ever propose; None for an endless search."""
        return combinations(space)

    def build(self, space: Space, objective: Objective, seed: int) -> Sampler:
        """The sampler."""
        return ListSampler(combinations(space))


class TpeSearch(ConfigModel):
    """Optuna's tree-structured Parzen estimator."""

    kind: Literal["tpe"] = Field(default="tpe", description="Optuna's TPE: learns where good trials lie.")
    startup: int = Field(default=10, ge=1, description="Random trials before the model is used.")

    def check(self, dimensions: Mapping[str, Dimension]) -> None:
        """Every space can be searched."""

    def everything(self, space: Space) -> list[Settings] | None:
        """All that it will ever propose; None for an endless search."""
        return None

    def build(self, space: Space, objective: Objective, seed: int) -> Sampler:
        """The sampler."""
        return ModelSampler(space, objective, seed, tpe(self.startup))


class CmaEsSearch(ConfigModel):
    """Optuna's covariance matrix adaptation."""

    kind: Literal["cmaes"] = Field(default="cmaes", description="Optuna's CMA-ES: for numbers and mixtures only.")
    population: int | None = Field(
        default=None, ge=3, description="Trials of a generation; by default 4 + 3 ln(coordinates)."
    )

    def check(self, dimensions: Mapping[str, Dimension]) -> None:
        """Refuse settings that have no coordinates, or do not always exist.

        Raises:
            ValueError: Naming the setting.
        """
        for path, dimension in dimensions.items():
            if isinstance(dimension, Choice | Grid) or dimension.when:
                what = "depends on another" if dimension.when else f"is a {dimension.kind}"
                raise ValueError(f"CMA-ES moves numbers that always exist, and `{path}` {what}: use `kind: tpe`")

    def everything(self, space: Space) -> list[Settings] | None:
        """All that it will ever propose; None for an endless search."""
        return None

    def build(self, space: Space, objective: Objective, seed: int) -> Sampler:
        """The sampler.

        Raises:
            ConfigError: If the space has a single coordinate.
        """
        if space.size < 2:
            raise ConfigError(
                "CMA-ES needs at least two numbers to move",
                where="tune.sampler",
                why="the space has one",
                fix="use `kind: tpe`",
            )
        return ModelSampler(space, objective, seed, cma_es(self.population))


SamplerConfig = Annotated[RandomSearch | GridSearch | TpeSearch | CmaEsSearch, Field(discriminator="kind")]
