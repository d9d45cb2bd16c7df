"""What the trials have shown: leaders trained again with fresh seeds, the verdict, and the page of the sweep.

In: the ledger after the search. Out: a verdict, and ``sweep.html``. Knows no Ray: how settings are trained is the
caller's.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from pydantic import JsonValue

from rayllm.core.errors import RunFailed
from rayllm.core.log import get_logger
from rayllm.data.mixing.weights import NAMED, Weights, domain_shares
from rayllm.report.sweep.page import render_sweep
from rayllm.report.sweep.records import Surface, SweepRecords
from rayllm.tune.config import TuneConfig
from rayllm.tune.objective import Objective
from rayllm.tune.replicates import Value, confirmations
from rayllm.tune.results import SEED, Ledger, TrialResult, group_of
from rayllm.tune.schedulers import NoScheduler
from rayllm.tune.significance import judge
from rayllm.tune.space import Settings
from rayllm.tune.verdict import Verdict

#: Trains some settings to their end; their results go into the ledger.
Train = Callable[[Sequence[Settings]], Any]

logger = get_logger(__name__)


def searching(settings: TuneConfig) -> TuneConfig:
    """The settings of the search: it leaves a share of the budget's hours for what confirms its leaders."""
    significance, budget = settings.significance, settings.budget
    if not significance.leaders:
        return settings
    limits = {"hours": budget.hours, "device_hours": budget.device_hours}
    left = {name: limit * (1 - significance.reserve_frac) for name, limit in limits.items() if limit is not None}
    return settings.model_copy(update={"budget": budget.model_copy(update=left)})


def confirming(settings: TuneConfig) -> TuneConfig:
    """The settings of confirmations: none is stopped early, and their number is not limited, but their hours are."""
    budget = settings.budget.model_copy(update={"trials": None})
    return settings.model_copy(update={"budget": budget, "scheduler": NoScheduler(kind="none")})


def confirm(ledger: Ledger, train: Train, settings: TuneConfig, value: Value, baselines: Sequence[Settings]) -> None:
    """Train the leaders and the baselines with fresh seeds, until there are enough or the budget is spent.

    Args:
        ledger: With the results of the search; an interrupted confirmation goes on where it was.
        train: Trains some settings.
        settings: The ``tune:`` section.
        value: What trials are judged by.
        baselines: What each baseline sets.
    """
    wanted = _wanted(ledger, settings, value, baselines)
    if wanted:
        logger.info("%d trials with fresh seeds show whether the leaders are better than chance", len(wanted))
        train(wanted)
    if missing := len(_wanted(ledger, settings, value, baselines)):
        logger.warning("the budget is spent: %d trials that would confirm the leaders are missing", missing)


def _wanted(ledger: Ledger, settings: TuneConfig, value: Value, baselines: Sequence[Settings]) -> list[Settings]:
    return confirmations(latest(ledger), value, settings.significance, baselines, settings.seed)


def latest(ledger: Ledger) -> list[TrialResult]:
    """Each trial as it ended last, in the order they first came."""
    return list({result.key: result for result in ledger.results}.values())


def verdict_of(
    results: Sequence[TrialResult], settings: TuneConfig, value: Value, baselines: Mapping[str, str]
) -> Verdict:
    """Judge the trials; see ``significance.judge``."""
    return judge(results, value, settings.significance, baselines, settings.seed)


def say(verdict: Verdict) -> None:
    """The verdict on the console."""
    logger.info("%s", verdict.sentence)
    for note in verdict.notes:
        logger.info("%s", note)


@dataclass(frozen=True)
class FoundMixture:
    """What the search for a mixture has found.

    Attributes:
        settings: Those of the mixture to train.
        key: Of a trial with these settings and the run's own seed.
        sentence: Its verdict.
        confirmed: Whether the mixture is a proposal that is better for sure.
        references: Name of each mixture that it had to beat, by group.
        proposals: Groups of the proposals that were trained beside them.
        surface: What the last law predicts, for three domains.
    """

    settings: Settings
    key: str
    sentence: str
    confirmed: bool
    references: dict[str, str]
    proposals: frozenset[str]
    surface: Surface | None

    @classmethod
    def read(cls, law: Mapping[str, Any], settings: Settings, key: str) -> "FoundMixture":
        """Read ``law.json``.

        Args:
            law: Its content.
            settings: Of the mixture to train.
            key: Of its trial.
        """
        proposals = [one["proposal"]["mixture"] for one in law["rounds"] if one["proposal"]]
        points = tuple((point["weights"], point["objective"]) for point in law["surface"] or ())
        surface = Surface(points, proposals[-1] if proposals else None) if points else None
        references = {group_of({law["setting"]: name}): name for name in NAMED}
        tried = [one["proposal"]["mixture"] for one in law["rounds"] if one["confirmation"]]
        compared = frozenset(group_of({law["setting"]: mixture}) for mixture in tried)
        return cls(settings, key, law["verdict"], law["confirmed"], references, compared, surface)


def said_by_law(law: FoundMixture, results: Sequence[TrialResult], settings: TuneConfig, value: Value) -> Verdict:
    """The verdict of a search for a mixture: the law confirms its proposals itself, at equal seeds.

    The contenders are what it compared, the mixture to keep first.

    Args:
        law: What it has found.
        results: All trials of the sweep.
        settings: The ``tune:`` section.
        value: What trials are judged by.

    Raises:
        RunFailed: If the mixture to keep was not trained.
    """
    best = _kept(law, results)
    compared = {best.group, *law.references, *law.proposals}
    rivals = [result for result in results if result.group in compared]
    verdict = judge(rivals, value, settings.significance, law.references, settings.seed, best.group)
    note = "The verdict is that of the mixture law; the contenders are the trainings by themselves."
    return verdict.model_copy(
        update={
            "kind": "winner" if law.confirmed else "tied",
            "sentence": law.sentence,
            "notes": [*verdict.notes, note],
        }
    )


def _kept(law: FoundMixture, results: Sequence[TrialResult]) -> TrialResult:
    """The first training of the mixture to keep."""
    group = group_of(law.settings)
    known = [result for result in results if group_of(result.settings) == group or result.key == law.key]
    trained = [result for result in known if result.status == "finished"]
    if not trained:
        raise RunFailed(
            "the mixture to keep was not trained",
            why=f"the budget ended before {law.settings} had its turn",
            fix="raise `tune.budget`, and run the same command again: it goes on",
        )
    return min(trained, key=lambda result: result.trial)


def best_settings(results: Sequence[TrialResult], verdict: Verdict) -> Settings:
    """The settings that are to be trained: those of the best contender, with the run's own seed."""
    best = next(result for result in results if result.group == verdict.best)
    return {path: value for path, value in best.settings.items() if path != SEED}


def spelled_out(results: Sequence[TrialResult], natural: Mapping[str, float]) -> list[TrialResult]:
    """Trials with the words ``natural`` and ``uniform`` as weights, which have a place among the others."""

    def weights(path: str, value: JsonValue) -> JsonValue:
        known = value in NAMED and path.endswith("weights")
        return cast(JsonValue, domain_shares(cast(Weights, value), natural, path)) if known else value

    return [
        one.model_copy(update={"settings": {path: weights(path, value) for path, value in one.settings.items()}})
        for one in results
    ]


def page(
    name: str,
    objective: Objective,
    ranked: Sequence[TrialResult],
    verdict: Verdict,
    baselines: Mapping[str, str],
    best_uri: str,
    natural: Mapping[str, float],
    surface: Surface | None = None,
    shares: Mapping[int, float] | None = None,
    per_hour: float | None = None,
    begun: int | None = None,
) -> str:
    """The page of a sweep as HTML.

    Args:
        name: Of the run.
        objective: What was lowered.
        ranked: All trials, in order of merit.
        verdict: What they show.
        baselines: Name of each baseline, by group.
        best_uri: The run file with the best settings.
        natural: Natural share of each training domain.
        surface: What a law predicts, if one was fitted.
        shares: Of trials that are forks, by number: what each cost as a share of a whole run.
        per_hour: Price of a device for an hour, where one is known.
        begun: Step at which trials began from a trained model; None where they began untrained.
    """

    def score(metrics: Mapping[str, float], tokens: int) -> float | None:
        value = objective.at(metrics, tokens)
        return value if math.isfinite(value) else None

    created = datetime.now(UTC).isoformat(timespec="seconds")
    return render_sweep(
        SweepRecords(
            name=name,
            objective=objective.expression,
            score=score,
            results=spelled_out(ranked, natural),
            verdict=verdict,
            baselines=baselines,
            surface=surface,
            shares=shares or {},
            best_uri=best_uri,
            created=created,
            per_hour=per_hour,
            begun=begun,
        )
    )
