"""Trials of a made-up training whose best mixture and learning rate are known."""

import math

from made_results import OBJECTIVE

from rayllm.tune.dimensions import LogUniform
from rayllm.tune.objective import Objective
from rayllm.tune.results import TrialResult, group_of
from rayllm.tune.simplex import Simplex
from rayllm.tune.space import Space

SHARES = {"web": 0.7, "code": 0.2, "maths": 0.1}
MEAN = Objective.parse(OBJECTIVE, list(SHARES))
BEST = {"web": 0.2, "code": 0.55, "maths": 0.25}
SPACE = Space({"weights": Simplex(around="uniform"), "lr": LogUniform(low=1e-5, high=1e-1)}, SHARES)


def loss(settings):
    """0 at the planted mixture and a learning rate of 3e-3, above it elsewhere."""
    mixture = sum((settings["weights"][name] - BEST[name]) ** 2 for name in BEST)
    return 4 * mixture + 0.3 * math.log10(settings["lr"] / 3e-3) ** 2


def ended(settings, value, status="finished", tokens=100, number=0):
    """A trial that ended with this value."""
    metrics = {} if value is None else {OBJECTIVE: value}
    return TrialResult(
        trial=number,
        key=str(number),
        settings=settings,
        group=group_of(settings),
        seed=settings.get("seed", 0),
        metrics=metrics,
        status=status,
        tokens=tokens,
        error="died" if status == "failed" else "",
    )


def search(sampler, trials, value=loss, at_once=1):
    """Settings and values of some trials, asked for and told in rounds."""
    found = []
    while len(found) < trials:
        asked = [one for one in (sampler.ask() for _ in range(at_once)) if one is not None]
        if not asked:
            break
        for settings in asked:
            found.append((settings, value(settings)))
            sampler.tell(ended(settings, found[-1][1], number=len(found)))
    return found
