"""The space of a sweep: dotted settings of the run file, each with the values it may take.

In: the ``space:`` of a run file, a seed, the domains. Out: the settings of every trial, a pure function of these. A
setting's draws depend on its own name and the sample's number only: more trials, or another setting in the space,
leave the earlier draws as they are.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, JsonValue, model_validator

from rayllm.core.config import ConfigModel
from rayllm.core.errors import ConfigError
from rayllm.core.rng import derive_seed
from rayllm.data.mixing.weights import PERIOD, quantize

Settings = dict[str, JsonValue]

REJECTIONS = 100_000


class Choice(ConfigModel):
    """One of some values, each as likely."""

    kind: Literal["choice"] = Field("choice", description="One of some values at random.")
    values: list[JsonValue] = Field(..., min_length=1, description="What the setting may be.")

    def sample(self, rng: np.random.Generator, domains: Sequence[str]) -> JsonValue:
        """Draw a value."""
        return self.values[int(rng.integers(len(self.values)))]


class Grid(ConfigModel):
    """Every one of some values, with every sample of the rest."""

    kind: Literal["grid"] = Field("grid", description="Each of some values in turn.")
    values: list[JsonValue] = Field(..., min_length=1, description="What the setting will be.")


class _Range(ConfigModel):
    low: float = Field(..., description="Lower end.")
    high: float = Field(..., description="Upper end.")

    @model_validator(mode="after")
    def _ordered(self) -> "_Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}: swap them, or widen the range")
        return self


class Uniform(_Range):
    """A number between two others."""

    kind: Literal["uniform"] = Field("uniform", description="A number, evenly spread.")

    def sample(self, rng: np.random.Generator, domains: Sequence[str]) -> JsonValue:
        """Draw a value, to six digits."""
        return float(f"{rng.uniform(self.low, self.high):.6g}")


class LogUniform(_Range):
    """A positive number whose logarithm is evenly spread; for learning rates."""

    kind: Literal["loguniform"] = Field("loguniform", description="A number, its logarithm evenly spread.")

    @model_validator(mode="after")
    def _positive(self) -> "LogUniform":
        if self.low <= 0:
            raise ValueError(f"low is {self.low:g}; a logarithm needs it above 0")
        return self

    def sample(self, rng: np.random.Generator, domains: Sequence[str]) -> JsonValue:
        """Draw a value, to six digits."""
        return float(f"{np.exp(rng.uniform(np.log(self.low), np.log(self.high))):.6g}")


class Integer(ConfigModel):
    """A whole number between two others, both included."""

    kind: Literal["int"] = Field("int", description="A whole number.")
    low: int = Field(..., description="Least value.")
    high: int = Field(..., description="Greatest value.")

    @model_validator(mode="after")
    def _ordered(self) -> "Integer":
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}: swap them")
        return self

    def sample(self, rng: np.random.Generator, domains: Sequence[str]) -> JsonValue:
        """Draw a value."""
        return int(rng.integers(self.low, self.high, endpoint=True))


class Simplex(ConfigModel):
    """Weights of all domains, summing to 1: a Dirichlet draw above the floors, kept if it is below the caps."""

    kind: Literal["simplex"] = Field("simplex", description="Weights of the domains, summing to 1.")
    concentration: float = Field(
        1.0, gt=0, description="Of the Dirichlet distribution: 1 is even, above 1 nearer to equal weights."
    )
    floor: float = Field(0.0, ge=0, lt=1, description="Least weight of every domain.")
    cap: float = Field(1.0, gt=0, le=1, description="Greatest weight of every domain.")

    def sample(self, rng: np.random.Generator, domains: Sequence[str]) -> JsonValue:
        """Draw weights, in the mixture's own resolution of 1/1024.

        Raises:
            ConfigError: If floors and caps leave no room.
        """
        count = len(domains)
        if count * self.floor > 1 or count * self.cap < 1:
            raise ConfigError(
                "no weights of the domains lie between floor and cap",
                why=f"{count} domains with a floor of {self.floor:g} and a cap of {self.cap:g} cannot sum to 1",
                fix=f"use a floor of at most {1 / count:.3g} and a cap of at least {1 / count:.3g}",
            )
        for _ in range(REJECTIONS):
            weights = self.floor + (1 - count * self.floor) * rng.dirichlet([self.concentration] * count)
            if weights.max() <= self.cap:
                draws = quantize((weights / weights.sum()).tolist())
                return {name: draw / PERIOD for name, draw in zip(domains, draws, strict=True)}
        raise ConfigError(
            "no weights of the domains were found between floor and cap",
            why=f"{REJECTIONS:,} draws were all above the cap of {self.cap:g}",
            fix="raise the cap, or the concentration",
        )


Random = Choice | Uniform | LogUniform | Integer | Simplex
Dimension = Annotated[Random | Grid, Field(discriminator="kind")]


def propose(space: Mapping[str, Dimension], samples: int, seed: int, domains: Sequence[str]) -> list[Settings]:
    """The settings of every trial: each sample of the random settings with each combination of the grids.

    Args:
        space: What each dotted setting may be.
        samples: How often the random settings are drawn.
        seed: Of the draws.
        domains: Names of the training domains, for ``simplex``.

    Raises:
        ConfigError: If a simplex is empty.
    """
    grids = {path: dimension.values for path, dimension in space.items() if isinstance(dimension, Grid)}
    found = []
    for number in range(samples):
        drawn = {path: _draw(path, dimension, number, seed, domains) for path, dimension in space.items()}
        for values in itertools.product(*grids.values()):
            found.append({**drawn, **dict(zip(grids, values, strict=True))})
    return found


def _draw(path: str, dimension: Dimension, number: int, seed: int, domains: Sequence[str]) -> JsonValue:
    if isinstance(dimension, Grid):
        return None  # laid over by the combination's value
    return dimension.sample(np.random.default_rng(derive_seed(seed, "tune", path, number)), domains)
