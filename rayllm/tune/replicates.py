"""Replicates: trials of the same settings with other seeds, and which settings deserve more of them.

A trial that was picked because it did best is better than it really is (the winner's curse). So the leaders are trained
again with seeds that took no part in the picking, and only these are compared.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from rayllm.core.rng import derive_seed
from rayllm.tune.results import SEED, TrialResult, group_of
from rayllm.tune.significance_config import SignificanceConfig
from rayllm.tune.space import Settings

#: What a trial is judged by, lowest first; called only for trials that came to their end.
Value = Callable[[TrialResult], float]
#: Fresh seeds begin below this: six digits, unlike the seeds that people write.
_SEED_RANGE = 10**6


@dataclass(frozen=True)
class Replicates:
    """Trials of the same settings.

    Attributes:
        group: Their key.
        results: Those that ended by themselves, one a seed.
        values: Of ``results``, in the same order.
        failed: How many failed.
    """

    group: str
    results: tuple[TrialResult, ...]
    values: tuple[float, ...]
    failed: int

    @property
    def mean(self) -> float:
        """Mean value; infinite if none came to its end."""
        return sum(self.values) / len(self.values) if self.values else math.inf


def fresh_seeds(seed: int, count: int) -> list[int]:
    """The seeds of confirmation trials: the first ones stay the same when more are wanted."""
    first = derive_seed(seed, "tune", "confirm") % _SEED_RANGE
    return [first + number for number in range(count)]


def gather(results: Sequence[TrialResult], value: Value) -> dict[str, Replicates]:
    """Groups of replicates, in the order they first came.

    Trials that a scheduler stopped are left out: they saw fewer tokens. Of trials with the same settings and seed, the
    last counts: they are one trial that ran again.
    """
    latest = {(result.group, result.seed): result for result in results if result.status != "stopped"}
    groups: dict[str, list[TrialResult]] = {}
    for (group, _), result in latest.items():
        groups.setdefault(group, []).append(result)
    return {group: _replicates(group, found, value) for group, found in groups.items()}


def _replicates(group: str, found: Sequence[TrialResult], value: Value) -> Replicates:
    finished = tuple(result for result in found if result.status == "finished")
    return Replicates(group, finished, tuple(value(result) for result in finished), len(found) - len(finished))


def screening(results: Sequence[TrialResult], seeds: Sequence[int]) -> list[TrialResult]:
    """The trials that leaders are picked from: all but those with fresh seeds."""
    return [result for result in results if result.seed not in seeds]


def leading(groups: Mapping[str, Replicates], baselines: Collection[str], count: int) -> list[str]:
    """The best groups that are no baselines and had no failure; of equals, the one that came first."""
    candidates = [one for one in groups.values() if one.group not in baselines and one.values and not one.failed]
    return [one.group for one in sorted(candidates, key=lambda one: one.mean)[:count]]


def confirmations(
    results: Sequence[TrialResult], value: Value, config: SignificanceConfig, baselines: Sequence[Settings], seed: int
) -> list[Settings]:
    """Settings of the trials that are still wanted before the sweep is judged; empty when there are enough.

    The leaders get ``config.seeds`` fresh seeds each. A baseline was not picked for its result, so what it has counts,
    and it gets only what it lacks: all of them, if it was stopped early or a population changed it. What a spent budget
    stopped is still wanted. A pure function of the ledger: an interrupted sweep asks again for the rest.

    Args:
        results: All trials of the sweep so far.
        value: What they are judged by.
        config: How many leaders, how many seeds.
        baselines: What each baseline sets.
        seed: Of the sweep.
    """
    if not config.leaders:
        return []
    seeds = fresh_seeds(seed, config.seeds)
    screened = gather(screening(results, seeds), value)
    own = {group_of(one): one for one in baselines}
    leaders = leading(screened, own, config.leaders)
    if not leaders:
        return []
    wanted = [(group, seeds) for group in leaders]
    wanted += [(group, seeds[: max(0, config.seeds - _tried(screened.get(group)))]) for group in own]
    done = {(result.group, result.seed) for result in results if result.status != "stopped"}
    settings = {result.group: result.settings for result in results} | own
    return [{**settings[group], SEED: one} for group, fresh in wanted for one in fresh if (group, one) not in done]


def _tried(found: Replicates | None) -> int:
    """Seeds that count of a baseline's; none if no trial of it came to its end."""
    return len(found.values) + found.failed if found and found.values else 0
