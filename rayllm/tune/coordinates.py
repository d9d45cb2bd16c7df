"""From a value back to its coordinates, so that a search learns from trials that it did not propose.

Every dimension gives its values from coordinates between 0 and 1 (see ``dimensions``), and each coordinate moves one
number upwards: the value itself, or the weight of one domain when those before it are set. So bisection finds it.
"""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from rayllm.data.mixing.weights import PERIOD
from rayllm.tune.space import Random

#: Halvings of a coordinate's range.
HALVINGS = 40
#: How near the values at the coordinates must be: of a weight, whose resolution is 1/PERIOD, and of a number, relative.
WEIGHT_TOLERANCE, TOLERANCE = 2 / PERIOD, 1e-4


def coordinates_of(dimension: Random, value: JsonValue, shares: Mapping[str, float]) -> list[float] | None:
    """The coordinates at which a dimension has a value; None where it never has.

    Args:
        dimension: Of numbers or weights.
        value: A number, weights by domain, or ``natural`` or ``uniform``.
        shares: Natural share of each domain.
    """
    wanted = _numbers(value, shares)
    if wanted is None:
        return None
    point = [0.5] * dimension.size(shares)
    for place in range(len(point)):
        low, high = 0.0, 1.0
        for _ in range(HALVINGS):
            point[place] = (low + high) / 2
            found = _numbers(dimension.at(point, shares), shares)
            if found is None or len(found) != len(wanted):
                return None
            low, high = (point[place], high) if found[place] < wanted[place] else (low, point[place])
        point[place] = high
    found = _numbers(dimension.at(point, shares), shares)
    return point if found is not None and _alike(found, wanted) else None


def _numbers(value: JsonValue, shares: Mapping[str, float]) -> list[float] | None:
    """A value as numbers: weights are made to sum to 1, in the order of the domains."""
    if value == "natural":
        return list(shares.values())
    if value == "uniform":
        return [1 / len(shares)] * len(shares)
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return [float(value)]
    if not isinstance(value, dict) or not set(value) <= set(shares):
        return None
    weights = [float(weight) if isinstance(weight := value.get(name, 0.0), int | float) else 0.0 for name in shares]
    return [weight / sum(weights) for weight in weights] if sum(weights) > 0 else None


def _alike(found: Sequence[float], wanted: Sequence[float]) -> bool:
    if len(found) == 1:
        return abs(found[0] - wanted[0]) <= TOLERANCE * abs(wanted[0])
    return all(abs(one - other) <= WEIGHT_TOLERANCE for one, other in zip(found, wanted, strict=True))
