"""What a setting may be: kinds of values, each reached from coordinates between 0 and 1.

A random draw has random coordinates; a search chooses them. So every sampler reaches the same values, as likely under
even coordinates as the dimension says.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, JsonValue, model_validator

from rayllm.core.config import ConfigModel

#: A setting has this value ... or one of these, on which another setting depends.
Conditions = dict[str, list[JsonValue]]


class Conditional(ConfigModel):
    """A setting that may exist only together with certain values of others."""

    when: Conditions = Field(
        default={},
        description="Other settings of the space, each with a list of values: this setting exists only where every one "
        "of them has one of its values.",
    )


class Choice(Conditional):
    """One of some values, each as likely."""

    kind: Literal["choice"] = Field(default="choice", description="One of some values at random.")
    values: list[JsonValue] = Field(..., min_length=1, description="What the setting may be.")

    def size(self, shares: Mapping[str, float]) -> int:
        """Coordinates of a value."""
        return 1

    def at(self, point: Sequence[float], shares: Mapping[str, float]) -> JsonValue:
        """The value at a point between 0 and 1."""
        return self.values[min(int(point[0] * len(self.values)), len(self.values) - 1)]


class Grid(Conditional):
    """Every one of some values, with every sample of the rest."""

    kind: Literal["grid"] = Field(default="grid", description="Each of some values in turn.")
    values: list[JsonValue] = Field(..., min_length=1, description="What the setting will be.")


class Range(Conditional):
    """A number between two others."""

    low: float = Field(..., description="Lower end.")
    high: float = Field(..., description="Upper end.")

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}: swap them, or widen the range")
        return self

    def size(self, shares: Mapping[str, float]) -> int:
        """Coordinates of a value."""
        return 1

    def within(self, value: float) -> float:
        """The nearest number of the range, to six digits."""
        return float(f"{min(max(value, self.low), self.high):.6g}")


class Uniform(Range):
    """A number between two others, evenly spread."""

    kind: Literal["uniform"] = Field(default="uniform", description="A number, evenly spread.")

    def at(self, point: Sequence[float], shares: Mapping[str, float]) -> JsonValue:
        """The value at a point between 0 and 1."""
        return self.within(self.low + point[0] * (self.high - self.low))


class LogUniform(Range):
    """A positive number whose logarithm is evenly spread; for learning rates."""

    kind: Literal["loguniform"] = Field(default="loguniform", description="A number, its logarithm evenly spread.")

    @model_validator(mode="after")
    def _positive(self) -> "LogUniform":
        if self.low <= 0:
            raise ValueError(f"low is {self.low:g}; a logarithm needs it above 0")
        return self

    def at(self, point: Sequence[float], shares: Mapping[str, float]) -> JsonValue:
        """The value at a point between 0 and 1."""
        return self.within(self.low * math.exp(point[0] * math.log(self.high / self.low)))


class Integer(Conditional):
    """A whole number between two others, both included."""

    kind: Literal["int"] = Field(default="int", description="A whole number.")
    low: int = Field(..., description="Least value.")
    high: int = Field(..., description="Greatest value.")

    @model_validator(mode="after")
    def _ordered(self) -> "Integer":
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}: swap them")
        return self

    def size(self, shares: Mapping[str, float]) -> int:
        """Coordinates of a value."""
        return 1

    def at(self, point: Sequence[float], shares: Mapping[str, float]) -> JsonValue:
        """The value at a point between 0 and 1."""
        return min(self.low + int(point[0] * (self.high - self.low + 1)), self.high)
