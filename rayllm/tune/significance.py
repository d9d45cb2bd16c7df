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
from rayllm.tune.verdict import Change, Contender, Kind, Lead, Verdict, sentence_of

#: Contenders whose tokens differ by more than this share were not trained alike.
_SAME_TOKENS = 1e-3


@dataclass(frozen=True)
class _Field:
    """Who is judged: candidates and baselines, and how many replicates each had that the best was picked from."""

    candidates: list[Replicates]
    baselines: list[Replicates]
    chosen_from: tuple[int, ...]

    @property
    def all(self) -> list[Replicates]:
        """Lowest mean first; those that failed now and then last."""
        return sorted([*self.candidates, *self.baselines], key=lambda one: (one.failed > 0, one.mean))


def judge(
    results: Sequence[TrialResult],
    value: Value,
    config: SignificanceConfig,
    baselines: Mapping[str, str],
    seed: int,
) -> Verdict:
    """Judge a sweep.

    Args:
        results: All its trials; at least one came to its end.
        value: What they are judged by, lowest first.
        config: How sure to be.
        baselines: Name of each baseline, by group.
        seed: Of the sweep; tells the seeds of confirmation trials.

    Source: the best against the next after Gutmann and Maymin 1987; against baselines after Dunnett 1955; that a
    winner must clear all others after Hsu 1984, Constrained simultaneous confidence intervals for multiple comparisons
    with the best, Annals of Statistics 12(3).
    """
    field = _field(results, value, config, baselines, seed)
    judged = field.all
    assert judged, "a sweep without a finished trial has failed before it is judged"
    noise = pooled_noise([one.values for one in judged])
    if noise is None or not noise.sd:
        return _unknown(judged, baselines, config.level, noise)
    best, rest = judged[0], [one for one in judged[1:] if not one.failed or one in field.baselines]
    leads = [_lead(best, other, noise, config.level, field) for other in rest]
    kind = _kind(best, leads, baselines)
    floor = best_against_next(config.level, noise.degrees) * noise.error_of_lead(
        len(best.values), len(rest[0].values) if rest else len(best.values)
    )
    contenders = [_contender(one, baselines, noise, config.level) for one in judged]
    return Verdict(
        kind=kind,
        sentence=sentence_of(kind, contenders, leads, floor),
        best=best.group,
        trial=contenders[0].trials[0],
        level=config.level,
        sd=noise.sd,
        degrees=noise.degrees,
        floor=floor,
        contenders=contenders,
        leads=leads,
        changes=_changes(best, field, config.level),
        notes=_notes(judged, field.baselines),
    )


def _field(
    results: Sequence[TrialResult], value: Value, config: SignificanceConfig, baselines: Mapping[str, str], seed: int
) -> _Field:
    groups = gather(results, value)
    known = [groups[group] for group in baselines if group in groups and groups[group].values]
    seeds = fresh_seeds(seed, config.seeds) if config.leaders else []
    fresh = gather([result for result in results if result.seed in seeds], value)
    leaders = leading(gather(screening(results, seeds), value), baselines, config.leaders)
    confirmed = [fresh[group] for group in leaders if group in fresh and fresh[group].values]
    if confirmed:
        return _Field(confirmed, known, tuple(len(one.values) for one in confirmed))
    tried = [one for one in groups.values() if one.group not in baselines and one.values]
    better = sorted(tried, key=lambda one: (one.failed > 0, one.mean))[: max(2, (len(tried) + 1) // 2)]
    return _Field(better, known, tuple(len(one.values) for one in tried))


def _lead(best: Replicates, other: Replicates, noise: Noise, level: float, field: _Field) -> Lead:
    against_baseline = other in field.baselines and best not in field.baselines
    quantile = (
        many_against_one(level, noise.degrees, field.chosen_from, len(other.values))
        if against_baseline
        else best_against_next(level, noise.degrees)
    )
    error = noise.error_of_lead(len(best.values), len(other.values))
    return Lead(over=other.group, lead=other.mean - best.mean, margin=quantile * error)


def _kind(best: Replicates, leads: Sequence[Lead], baselines: Mapping[str, str]) -> Kind:
    if best.group in baselines:
        return "baseline"
    return "winner" if leads and not best.failed and all(lead.clear for lead in leads) else "tied"


def _contender(one: Replicates, baselines: Mapping[str, str], noise: Noise | None, level: float) -> Contender:
    half = best_against_next(level, noise.degrees) * noise.error_of_mean(len(one.values)) if noise else None
    return Contender(
        group=one.group,
        trials=sorted(result.trial for result in one.results),
        baseline=baselines.get(one.group, ""),
        mean=one.mean,
        low=None if half is None else one.mean - half,
        high=None if half is None else one.mean + half,
        seeds=len(one.values),
        failed=one.failed,
    )


def _unknown(judged: Sequence[Replicates], baselines: Mapping[str, str], level: float, noise: Noise | None) -> Verdict:
    """No floor: nothing has two seeds, or the seeds change nothing."""
    contenders = [_contender(one, baselines, None, level) for one in judged]
    note = (
        "No settings were trained with two seeds: set `tune.significance.leaders`, or `tune.replicates`."
        if noise is None
        else "Replicates are equal to the last digit: the seed does not reach the trials."
    )
    return Verdict(
        kind="unknown",
        sentence=sentence_of("unknown", contenders, [], None),
        best=contenders[0].group,
        trial=contenders[0].trials[0],
        level=level,
        contenders=contenders,
        notes=[note, *_notes(judged, [])],
    )


def _changes(best: Replicates, field: _Field, level: float) -> list[Change]:
    """Each domain's bits per byte, or its loss where there are no bytes, of the best against the first baseline."""
    if not field.baselines or best in field.baselines:
        return []
    baseline, found = field.baselines[0], []
    for metric in best.results[0].metrics:
        series = {one.group: [result.metrics.get(metric) for result in one.results] for one in field.all}
        complete = {group: [v for v in values if v is not None] for group, values in series.items()}
        noise = pooled_noise(complete.values())
        if not metric.startswith("bits_per_byte/") or noise is None or not complete[baseline.group]:
            continue
        ours, theirs = complete[best.group], complete[baseline.group]
        margin = best_against_next(level, noise.degrees) * noise.error_of_lead(len(ours), len(theirs))
        found.append(
            Change(metric=metric, best=sum(ours) / len(ours), baseline=sum(theirs) / len(theirs), margin=margin)
        )
    return found


def _notes(judged: Sequence[Replicates], baselines: Sequence[Replicates]) -> list[str]:
    notes = []
    tokens = [result.tokens for one in judged for result in one.results]
    if max(tokens) - min(tokens) > _SAME_TOKENS * max(tokens):
        notes.append(f"The contenders were not trained on equal tokens: {min(tokens):,} to {max(tokens):,}.")
    notes += [f"Of trial {one.results[0].trial}'s replicates {one.failed} failed." for one in judged if one.failed]
    if not baselines:
        notes.append("No baseline was trained: the verdict is about the trials among themselves.")
    return notes
