"""A sweep's search: from its section of the run file to baselines and one sampler of all trials."""

from collections.abc import Sequence

from rayllm.core.errors import ConfigError
from rayllm.tune.config import TuneConfig
from rayllm.tune.objective import Objective
from rayllm.tune.results import group_of
from rayllm.tune.samplers.combined import Chain, Replicated
from rayllm.tune.samplers.sampler import ListSampler, Sampler, distinct
from rayllm.tune.space import Settings, Space

#: Trials of an endless search that are checked before anything runs.
PROBES = 32


def baseline_settings(baselines: Sequence[Settings | str], weighted_stages: Sequence[int]) -> list[Settings]:
    """What each baseline sets.

    Args:
        baselines: As in the run file.
        weighted_stages: Stages of the curriculum that have weights of their own; a mixture by name takes their place.
    """
    paths = ["mixture.weights", *(f"curriculum.{index}.weights" for index in weighted_stages)]
    return [dict.fromkeys(paths, one) if isinstance(one, str) else one for one in baselines]


def baseline_names(baselines: Sequence[Settings | str], settings: Sequence[Settings]) -> dict[str, str]:
    """The name of each baseline, by its group; all its names, where several are the same.

    Args:
        baselines: As in the run file.
        settings: What each sets.
    """
    names: dict[str, list[str]] = {}
    for index, (one, made) in enumerate(zip(baselines, settings, strict=True)):
        name = one if isinstance(one, str) else f"baseline {index}" if one else "the run file"
        names.setdefault(group_of(made), []).append(name)
    return {group: " = ".join(dict.fromkeys(same)) for group, same in names.items()}


def build_sampler(
    settings: TuneConfig, baselines: Sequence[Settings], space: Space, objective: Objective, run_seed: int
) -> Sampler:
    """What proposes all trials of a search: the baselines, then the samples, each with its replicates.

    Args:
        settings: The ``tune:`` section.
        baselines: What each baseline sets.
        space: The section's space over the run's domains.
        objective: What to lower.
        run_seed: Seed of the run file, which the first replicate of everything has.
    """
    search = settings.sampler.build(space, objective, settings.seed)
    both = Chain([ListSampler(baselines), search])
    return Replicated(both, settings.replicates, run_seed) if settings.replicates > 1 else both


def probes(settings: TuneConfig, baselines: Sequence[Settings], space: Space) -> list[Settings]:
    """Settings to check before anything runs: all of a finite search, the first ones of an endless one.

    Raises:
        ConfigError: If a finite search is more than the budget has trials for, or a population has no end.
    """
    limit = settings.budget.trials
    everything = settings.sampler.everything(space)
    if everything is not None:
        found = distinct([*baselines, *everything])
        needed = len(found) * settings.replicates
        if limit is not None and needed > limit:
            raise ConfigError(
                f"the grid and its baselines are {needed} trials, more than the budget",
                where="tune.budget.trials",
                fix=f"set it to {needed}, or try fewer values",
            )
        return found
    if limit is None and settings.scheduler.kind == "pbt":
        raise ConfigError(
            "the population would grow without end",
            where="tune.budget",
            why="all its trials train together, and the search proposes ever more",
            fix="set `tune.budget.trials` to the size of the population; `hours` may stand beside it",
        )
    number, found = 0, list(baselines)
    while len(found) < len(baselines) + min(limit or PROBES, PROBES):
        found += space.sample(number, settings.seed)
        number += 1
    return distinct(found)
