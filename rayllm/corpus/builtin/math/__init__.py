"""Generated mathematics: endless worked problems, every answer right, training and validation worded differently."""

from bisect import bisect
from itertools import accumulate
from random import Random

from rayllm.core.rng import derive_seed
from rayllm.corpus.builtin.math import algebra, arithmetic, ratios, stories
from rayllm.corpus.builtin.math.problem import Family, Problem
from rayllm.corpus.documents import Split

FAMILIES: tuple[Family, ...] = (*arithmetic.FAMILIES, *ratios.FAMILIES, *algebra.FAMILIES, *stories.FAMILIES)
_CUMULATIVE = list(accumulate(family.weight for family in FAMILIES))


def generate_problem(seed: int, split: Split, number: int) -> Problem:
    """Generate one problem, the same for the same arguments wherever and in whatever order it is made.

    Args:
        seed: The run's seed.
        split: Which templates to use.
        number: Number of the problem.
    """
    rng = Random(derive_seed(seed, "synthetic_math", split, number))
    family = FAMILIES[bisect(_CUMULATIVE, rng.randrange(_CUMULATIVE[-1]))]
    templates = family.train if split == "train" else family.validation
    index = rng.randrange(len(templates))
    worked = family.work(rng)
    question = templates[index].format(**worked.values)
    return Problem(question, worked.steps, worked.answer, f"{family.name}/{split}/{index}", worked.checks)
