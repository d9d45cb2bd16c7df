"""How a population changes the settings that a trial takes over from a better one.

In: the better trial's settings, the number of the change. Out: new settings, near the old ones or drawn anew.

Source: Jaderberg et al. 2017, arXiv:1711.09846, section 4.1 ("perturb" and "resample").
"""

from collections.abc import Mapping

import numpy as np
from pydantic import JsonValue

from rayllm.core.rng import derive_seed
from rayllm.tune.dimensions import Choice, Grid, Integer, LogUniform, Uniform
from rayllm.tune.schedulers import PbtScheduler
from rayllm.tune.simplex import Simplex
from rayllm.tune.space import Dimension, Settings, Space

#: What a number is multiplied by.
FACTORS = (0.8, 1.2)
#: Concentration, for each domain, of the Dirichlet step around a mixture: shares of a third move by 0.06 (one standard
#: deviation) for three domains.
STEP_CONCENTRATION = 20.0


def explore(space: Space, scheduler: PbtScheduler, settings: Settings, seed: int, number: int) -> Settings:
    """Change settings: each is drawn anew now and then, else moved a little.

    A setting that only now exists, by its conditions, is drawn; one that ceases to exist is dropped. What is not in the
    space, such as a replicate's seed, stays.

    Args:
        space: What may change.
        scheduler: How often a setting is drawn anew.
        settings: Of the better trial.
        seed: Of the sweep.
        number: Of the change; another number gives another change.
    """

    def choose(path: str, dimension: Dimension) -> JsonValue:
        rng = np.random.default_rng(derive_seed(seed, "explore", path, number))
        if path not in settings or scheduler.draws_anew(rng.random()):
            return space.draw(path, rng)
        return moved(dimension, settings[path], space.shares, rng)

    others = {path: value for path, value in settings.items() if path not in space.dimensions}
    return {**others, **space.walk(choose)}


def moved(dimension: Dimension, value: JsonValue, shares: Mapping[str, float], rng: np.random.Generator) -> JsonValue:
    """A value near another: numbers times 0.8 or 1.2, a neighbour in a list, a Dirichlet step of a mixture.

    Args:
        dimension: What the setting may be.
        value: What it is.
        shares: Natural share of each domain.
        rng: Of the change.
    """
    up = bool(rng.integers(2))
    if isinstance(dimension, Uniform | LogUniform):
        return dimension.within(float(str(value)) * FACTORS[up])
    if isinstance(dimension, Integer):
        old = int(str(value))
        step = max(1, round(abs(old) * (FACTORS[1] - 1)))
        return min(max(old + (step if up else -step), dimension.low), dimension.high)
    if isinstance(dimension, Choice | Grid):
        if value not in dimension.values:
            return dimension.values[int(rng.integers(len(dimension.values)))]
        index = dimension.values.index(value) + (1 if up else -1)
        return dimension.values[min(max(index, 0), len(dimension.values) - 1)]
    return _stepped(dimension, value, shares, rng)


def _stepped(simplex: Simplex, value: JsonValue, shares: Mapping[str, float], rng: np.random.Generator) -> JsonValue:
    """Weights drawn around others, within the same floors and caps; ``natural`` and ``uniform`` are weights too."""
    around = {"around": value, "concentration": STEP_CONCENTRATION, "pull": 0.0}
    near = Simplex.model_validate({**simplex.model_dump(), **around})
    return near.at(rng.random(near.size(shares)).tolist(), shares)
