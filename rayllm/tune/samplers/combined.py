"""Samplers made of others: one after another, and each settings with several seeds."""

from collections import deque
from collections.abc import Sequence

from rayllm.tune.results import SEED, TrialResult, group_of
from rayllm.tune.samplers.sampler import Sampler, name_of
from rayllm.tune.space import Settings


class Chain:
    """One sampler after another; a later one is asked as soon as those before propose nothing more.

    Args:
        samplers: In order. Settings that one proposed are not proposed again by a later one.
    """

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        self._samplers = samplers
        self._askers: dict[str, list[Sampler]] = {}
        self._results: dict[str, TrialResult] = {}

    @property
    def done(self) -> bool:
        """Whether all are."""
        return all(sampler.done for sampler in self._samplers)

    def ask(self) -> Settings | None:
        """What the first of them that is not done proposes."""
        for sampler in self._samplers:
            while not sampler.done:
                settings = sampler.ask()
                if settings is None:
                    break
                if self._is_new(settings, sampler):
                    return settings
            if not sampler.done:
                return None
        return None

    def tell(self, result: TrialResult) -> None:
        """Tell whoever proposed it, and those that come after: a search learns from the baselines before it."""
        name = name_of(result.settings)
        self._results[name] = result
        if askers := self._askers.get(name):
            self._pass_on(result, askers[0])

    def _is_new(self, settings: Settings, sampler: Sampler) -> bool:
        """Whether no other proposed it before; a result that is known already serves this sampler too."""
        name = name_of(settings)
        askers = self._askers.setdefault(name, [])
        askers.append(sampler)
        if name in self._results and len(askers) == 1:
            self._pass_on(self._results[name], sampler)
        return len(askers) == 1

    def _pass_on(self, result: TrialResult, first: Sampler) -> None:
        begin = next(place for place, one in enumerate(self._samplers) if one is first)
        for sampler in self._samplers[begin:]:
            sampler.tell(result)


class Replicated:
    """Each settings of a sampler with several seeds; the sampler is told their mean.

    Args:
        sampler: Proposes settings.
        replicates: Trials of each.
        seed: The run file's; the first replicate has it, the others those that follow.
    """

    def __init__(self, sampler: Sampler, replicates: int, seed: int) -> None:
        self._sampler, self._replicates, self._seed = sampler, replicates, seed
        self._next: deque[Settings] = deque()
        self._settings: dict[str, Settings] = {}
        self._told: dict[str, dict[str, TrialResult]] = {}

    @property
    def done(self) -> bool:
        """Whether the sampler is, and every replicate was proposed."""
        return not self._next and self._sampler.done

    def ask(self) -> Settings | None:
        """The next replicate, or the first one of the next settings."""
        if not self._next:
            settings = self._sampler.ask()
            if settings is None:
                return None
            group = group_of(settings)
            self._settings[group] = settings
            self._pass_on(group)
            others = [{**settings, SEED: self._seed + number} for number in range(1, self._replicates)]
            self._next.extend([settings, *others])
        return self._next.popleft()

    def tell(self, result: TrialResult) -> None:
        """Note a replicate; the last one of its settings is passed on as the mean of all, once they have come equally
        far, or will come no further."""
        self._told.setdefault(result.group, {})[name_of(result.settings)] = result
        self._pass_on(result.group)

    def _pass_on(self, group: str) -> None:
        told = list(self._told.get(group, {}).values())
        if len(told) < self._replicates or group not in self._settings:
            return
        if len({result.tokens for result in told}) == 1 or not any(result.cut for result in told):
            self._sampler.tell(mean_of(told, self._settings[group]))


def mean_of(results: Sequence[TrialResult], settings: Settings) -> TrialResult:
    """Replicates as one result: the mean of those that came furthest, finished before stopped before failed.

    Args:
        results: Of the same settings with different seeds.
        settings: What they have in common.
    """
    status = next(status for status in ("finished", "stopped", "failed") if any(r.status == status for r in results))
    alike = [result for result in results if result.status == status]
    names = [name for name in alike[0].metrics if all(name in result.metrics for result in alike)]
    metrics = {name: sum(result.metrics[name] for result in alike) / len(alike) for name in names}
    return alike[0].model_copy(update={"settings": settings, "metrics": metrics, "curve": []})
