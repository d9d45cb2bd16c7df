"""The space of a sweep: dotted settings of the run file, each with the values it may take.

In: the ``space:`` of a run file, the natural shares of the domains. Out: settings of trials. A setting's draws depend
on its own name and the sample's number only: more trials, or another setting in the space, leave them as they are.
"""

from collections.abc import Callable, Container, Mapping
from typing import Annotated

import numpy as np
from pydantic import Field, JsonValue

from rayllm.core.rng import derive_seed
from rayllm.tune.dimensions import Choice, Conditional, Grid, Integer, LogUniform, Uniform
from rayllm.tune.simplex import Simplex

Settings = dict[str, JsonValue]
Random = Choice | Uniform | LogUniform | Integer | Simplex
Dimension = Annotated[Random | Grid, Field(discriminator="kind")]


class Space:
    """The dimensions of a sweep over certain domains.

    Args:
        dimensions: By dotted setting; see ``check_conditions``.
        shares: Natural share of each training domain in the tokens, summing to 1.
    """

    def __init__(self, dimensions: Mapping[str, Dimension], shares: Mapping[str, float]) -> None:
        self.dimensions, self.shares = dimensions, shares
        self._order = in_order(dimensions)

    def walk(self, choose: Callable[[str, Dimension], JsonValue], only: Container[str] | None = None) -> Settings:
        """Choose a value for every setting that exists, those on which others depend first.

        Args:
            choose: Called with each dotted setting and what it may be.
            only: Settings to leave out unless they are in here; none by default.
        """
        chosen: Settings = {}
        for path in self._order:
            if (only is None or path in only) and _exists(self.dimensions[path], chosen):
                chosen[path] = choose(path, self.dimensions[path])
        return {path: chosen[path] for path in self.dimensions if path in chosen}

    def sample(self, number: int, seed: int) -> list[Settings]:
        """One sample of the random settings with each combination of the grids.

        Args:
            number: Of the sample.
            seed: Of the sweep's draws.

        Raises:
            ConfigError: If a simplex has no room.
        """
        made: list[Settings] = [{}]
        for path in self._order:
            dimension = self.dimensions[path]
            values = dimension.values if isinstance(dimension, Grid) else None
            drawn = values or [self.draw(path, np.random.default_rng(derive_seed(seed, "tune", path, number)))]
            made = [
                {**one, path: value} if keep else one
                for one in made
                for keep in [_exists(dimension, one)]
                for value in (drawn if keep else [None])
            ]
        return [{path: one[path] for path in self.dimensions if path in one} for one in made]

    def draw(self, path: str, rng: np.random.Generator) -> JsonValue:
        """A random value of one setting."""
        dimension = self.dimensions[path]
        if isinstance(dimension, Grid):
            return dimension.values[int(rng.integers(len(dimension.values)))]
        return dimension.at(rng.random(dimension.size(self.shares)).tolist(), self.shares)

    @property
    def size(self) -> int:
        """Coordinates of the whole space; grids have none."""
        sized = [dimension for dimension in self.dimensions.values() if not isinstance(dimension, Grid)]
        return sum(dimension.size(self.shares) for dimension in sized)

    @property
    def has_chance(self) -> bool:
        """Whether one sample differs from another."""
        return any(not isinstance(dimension, Grid) for dimension in self.dimensions.values())


def combinations(space: Space) -> list[Settings]:
    """Every combination of a space of grids, choices and whole numbers.

    Raises:
        ValueError: Naming a setting that has no list of values.
    """
    return Space({path: listed(path, dimension) for path, dimension in space.dimensions.items()}, space.shares).sample(
        0, 0
    )


def check_conditions(dimensions: Mapping[str, Dimension]) -> None:
    """Refuse settings that depend on what is not in the space, on values that never come, or on each other.

    Raises:
        ValueError: Naming the setting and what is wrong.
    """
    for path, dimension in dimensions.items():
        for other, values in dimension.when.items():
            if other not in dimensions:
                raise ValueError(f"`{path}` depends on `{other}`, which is not in the space: add it, or remove `when`")
            _check_values(path, other, dimensions[other], values)
    in_order(dimensions)


def in_order(dimensions: Mapping[str, Conditional]) -> list[str]:
    """The settings, each after those on which it depends.

    Raises:
        ValueError: If some depend on each other.
    """
    order: list[str] = []
    while len(order) < len(dimensions):
        ready = [path for path in dimensions if path not in order and set(dimensions[path].when) <= set(order)]
        if not ready:
            stuck = ", ".join(f"`{path}`" for path in dimensions if path not in order)
            raise ValueError(f"the settings {stuck} depend on each other: remove one `when`")
        order += ready
    return order


def _exists(dimension: Conditional, chosen: Settings) -> bool:
    return all(other in chosen and chosen[other] in values for other, values in dimension.when.items())


def listed(path: str, dimension: Dimension) -> Grid:
    """A dimension as the list of all its values.

    Raises:
        ValueError: If it has no such list.
    """
    if isinstance(dimension, Choice | Grid):
        return Grid(values=dimension.values, when=dimension.when)
    if isinstance(dimension, Integer):
        return Grid(values=list(range(dimension.low, dimension.high + 1)), when=dimension.when)
    raise ValueError(
        f"`{path}` is {dimension.kind}, which has no end of values: a grid needs `grid`, `choice` or `int`"
    )


def _check_values(path: str, other: str, dimension: Dimension, values: list[JsonValue]) -> None:
    if isinstance(dimension, Integer):
        possible = [value for value in values if isinstance(value, int) and dimension.low <= value <= dimension.high]
    elif isinstance(dimension, Choice | Grid):
        possible = [value for value in values if value in dimension.values]
    else:
        raise ValueError(
            f"`{path}` depends on `{other}`, which is {dimension.kind}: it must be `choice`, `grid` or `int`"
        )
    wrong = [value for value in values if value not in possible]
    if wrong or not values:
        raise ValueError(f"`{path}` depends on `{other}` being {wrong or 'one of no values'}, which it never is")
