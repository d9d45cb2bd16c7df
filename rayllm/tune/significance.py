"""Whether a sweep has a winner: leads against the noise floor.

In: the trials. Out: a ``Verdict``. A winner is named only when its lead over every baseline and over the next best
clears what seeds alone do. What is compared are the fresh seeds of the leaders where there are any
(``replicates.confirmations``), so that luck in the picking does not count; else whatever replicates the sweep has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayllm.tune.noise import Noise, best_against_next, many_against_one, pooled_noise
from rayllm.tune.replicates import Replicates, Value, fresh_seeds, gather, leading, screening
from rayllm.tune.results import TrialResult
from rayllm.tune.significance_config import SignificanceConfig
from rayllm.tune.verdict import Change, Contender, Kind, Lead, Verdict
from rayllm.tune.verdict_text import sentence_of

#: Contenders whose tokens differ by more than this share were not trained alike.
_SAME_TOKENS = 1e-3
_BITS = "bits_per_byte/"


@dataclass(frozen=True)
class _Field:
    """Who is judged.

    Attributes:
        candidates: What was tried; the better part of it where all have replicates.
        baselines: What it must beat.
        chosen_from: Replicates of each candidate that the best was chosen from.
        names: Of the baselines, by group.
        numbers: Of the first trial of each group.
        level: Chance to name a winner where there is none.
        best: Group that is held for the best, whatever its mean; empty for the one with the lowest.
    """

    candidates: list[Replicates]
    baselines: list[Replicates]
    chosen_from: tuple[int, ...]
    names: Mapping[str, str]
    numbers: Mapping[str, int]
    level: float
    best: str

    @property
    def missing(self) -> list[str]:
        """Baselines of which no trial came to its end, in words."""
        judged = {one.group for one in self.baselines}
        return [f"the baseline ({name})" for group, name in self.names.items() if group not in judged]

    @property
    def all(self) -> list[Replicates]:
        """In order of merit."""
        return _by_merit([*self.candidates, *self.baselines], self.best)


def judge(
    results: Sequence[TrialResult],
    value: Value,
    config: SignificanceConfig,
    baselines: Mapping[str, str],
    seed: int,
    best: str = "",
) -> Verdict:
    """Judge a sweep.

    Args:
        results: All its trials; at least one came to its end.
        value: What they are judged by, lowest first.
        config: How sure to be.
        baselines: Name of each baseline, by group.
        seed: Of the sweep; tells the seeds of confirmation trials.
        best: Group of the best, where others have found it; by default the one with the lowest mean.

    Source: the best against the next after Gutmann and Maymin 1987; against baselines after Dunnett 1955; that a
    winner must clear all others after Hsu 1984, Constrained simultaneous confidence intervals for multiple comparisons
    with the best, Annals of Statistics 12(3).
    """
    field = _field(results, value, config, baselines, seed, best)
    assert field.all, "a sweep without a finished trial has failed before it is judged"
    noise = pooled_noise([one.values for one in field.all])
    if noise is None or not noise.sd:
        return _unknown(field, noise)
    first, *others = field.all
    rest = [one for one in others if not one.failed or one in field.baselines]
    leads = [_lead(first, other, noise, field) for other in rest]
    kind = _kind(first, leads, field)
    contenders = [_contender(one, field, noise) for one in field.all]
    next_best = rest[0] if rest else first
    floor = best_against_next(field.level, noise.degrees) * _error_of_lead(first, next_best, noise)
    return Verdict(
        kind=kind,
        sentence=sentence_of(kind, contenders, leads, floor, field.missing),
        best=first.group,
        trial=contenders[0].trial,
        level=field.level,
        sd=noise.sd,
        degrees=noise.degrees,
        floor=floor,
        contenders=contenders,
        leads=leads,
        changes=_changes(first, field),
        notes=_notes(field),
    )


def _field(
    results: Sequence[TrialResult],
    value: Value,
    config: SignificanceConfig,
    baselines: Mapping[str, str],
    seed: int,
    best: str,
) -> _Field:
    """The leaders at their fresh seeds and the baselines at all of theirs; without fresh seeds, all that was tried."""
    groups = gather(results, value)
    known = [groups[group] for group in baselines if group in groups and groups[group].values]
    numbers = {result.group: result.trial for result in sorted(results, key=lambda one: -one.trial)}
    seeds = fresh_seeds(seed, config.seeds) if config.leaders else []
    fresh = gather([result for result in results if result.seed in seeds], value)
    leaders = leading(gather(screening(results, seeds), value), baselines, config.leaders)
    confirmed = [fresh[group] for group in leaders if group in fresh and fresh[group].values]
    if confirmed:
        return _Field(confirmed, known, _counts(confirmed), baselines, numbers, config.level, best)
    tried = [one for one in groups.values() if one.group not in baselines and one.values]
    better = _by_merit(tried, best)[: max(2, (len(tried) + 1) // 2)]
    return _Field(better, known, _counts(tried), baselines, numbers, config.level, best)


def _by_merit(groups: Sequence[Replicates], best: str) -> list[Replicates]:
    """The best first, then lowest mean first; those that failed now and then last."""
    return sorted(groups, key=lambda one: (one.group != best, one.failed > 0, one.mean))


def _counts(groups: Sequence[Replicates]) -> tuple[int, ...]:
    return tuple(len(one.values) for one in groups)


def _lead(best: Replicates, other: Replicates, noise: Noise, field: _Field) -> Lead:
    against_baseline = other in field.baselines and best not in field.baselines
    quantile = (
        many_against_one(field.level, noise.degrees, field.chosen_from, len(other.values))
        if against_baseline
        else best_against_next(field.level, noise.degrees)
    )
    return Lead(over=other.group, lead=other.mean - best.mean, margin=quantile * _error_of_lead(best, other, noise))


def _error_of_lead(best: Replicates, other: Replicates, noise: Noise) -> float:
    return noise.error_of_lead(len(best.values), len(other.values))


def _kind(best: Replicates, leads: Sequence[Lead], field: _Field) -> Kind:
    if best in field.baselines:
        return "baseline"
    clear = leads and not best.failed and all(lead.clear for lead in leads)
    return "winner" if clear and not field.missing else "tied"


def _contender(one: Replicates, field: _Field, noise: Noise | None) -> Contender:
    half = best_against_next(field.level, noise.degrees) * noise.error_of_mean(len(one.values)) if noise else None
    return Contender(
        group=one.group,
        trial=field.numbers[one.group],
        trials=sorted(result.trial for result in one.results),
        baseline=field.names.get(one.group, ""),
        mean=one.mean,
        low=None if half is None else one.mean - half,
        high=None if half is None else one.mean + half,
        seeds=len(one.values),
        failed=one.failed,
    )


def _unknown(field: _Field, noise: Noise | None) -> Verdict:
    """No floor: nothing has two seeds, or the seeds change nothing."""
    contenders = [_contender(one, field, None) for one in field.all]
    note = (
        "No settings were trained with two seeds: set `tune.significance.leaders`, or `tune.replicates`."
        if noise is None
        else "Replicates are equal to the last digit: the seed does not reach the trials."
    )
    return Verdict(
        kind="unknown",
        sentence=sentence_of("unknown", contenders, [], None),
        best=contenders[0].group,
        trial=contenders[0].trial,
        level=field.level,
        contenders=contenders,
        notes=[note, *_notes(field)],
    )


def _changes(best: Replicates, field: _Field) -> list[Change]:
    """Bits per byte of every domain, of the best against the first baseline."""
    if not field.baselines or best in field.baselines:
        return []
    metrics = [name for name in best.results[0].metrics if name.startswith(_BITS)]
    found = [_change(metric, best, field.baselines[0], field) for metric in metrics]
    return [change for change in found if change is not None]


def _change(metric: str, best: Replicates, baseline: Replicates, field: _Field) -> Change | None:
    values = {one.group: [r.metrics[metric] for r in one.results if metric in r.metrics] for one in field.all}
    ours, theirs, noise = values[best.group], values[baseline.group], pooled_noise(values.values())
    if noise is None or not ours or not theirs:
        return None
    margin = best_against_next(field.level, noise.degrees) * noise.error_of_lead(len(ours), len(theirs))
    return Change(metric=metric, best=sum(ours) / len(ours), baseline=sum(theirs) / len(theirs), margin=margin)


def _notes(field: _Field) -> list[str]:
    notes = []
    tokens = [result.tokens for one in field.all for result in one.results]
    if max(tokens) - min(tokens) > _SAME_TOKENS * max(tokens):
        notes.append(f"The contenders were not trained on equal tokens: {min(tokens):,} to {max(tokens):,}.")
    failures = [one for one in field.all if one.failed]
    notes += [f"Of trial {field.numbers[one.group]}'s replicates {one.failed} failed." for one in failures]
    notes += [f"No trial of {one} came to its end: nothing was compared with it." for one in field.missing]
    if not field.names:
        notes.append("No baseline was trained: the verdict is about the trials among themselves.")
    return notes
