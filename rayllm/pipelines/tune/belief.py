"""What the trials have shown: leaders trained again with fresh seeds, the verdict, and the page of the sweep.

In: the ledger after the search. Out: a verdict, and ``sweep.html``. Knows no Ray: how settings are trained is the
caller's.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rayllm.core.log import get_logger
from rayllm.report.sweep.page import render_sweep
from rayllm.report.sweep.records import Score, Surface, SweepRecords
from rayllm.tune.config import TuneConfig
from rayllm.tune.replicates import Value, confirmations
from rayllm.tune.results import SEED, Ledger, TrialResult
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


def confirm(ledger: Ledger, train: Train, settings: TuneConfig, value: Value, baselines: Mapping[str, str]) -> None:
    """Train the leaders and the baselines with fresh seeds, until there are enough or the budget is spent.

    Args:
        ledger: With the results of the search; an interrupted confirmation goes on where it was.
        train: Trains some settings.
        settings: The ``tune:`` section.
        value: What trials are judged by.
        baselines: Name of each baseline, by group.
    """
    wanted = _wanted(ledger, settings, value, baselines)
    if wanted:
        logger.info("%d trials with fresh seeds show whether the leaders are better than chance", len(wanted))
        train(wanted)
    if missing := len(_wanted(ledger, settings, value, baselines)):
        logger.warning("the budget is spent: %d trials that would confirm the leaders are missing", missing)


def _wanted(ledger: Ledger, settings: TuneConfig, value: Value, baselines: Mapping[str, str]) -> list[Settings]:
    return confirmations(latest(ledger), value, settings.significance, baselines, settings.seed)


def latest(ledger: Ledger) -> list[TrialResult]:
    """Each trial as it ended last, in the order they first came."""
    return list({result.key: result for result in ledger.results}.values())


def verdict_of(
    results: Sequence[TrialResult], settings: TuneConfig, value: Value, baselines: Mapping[str, str]
) -> Verdict:
    """Judge the trials, and say it on the console."""
    verdict = judge(results, value, settings.significance, baselines, settings.seed)
    logger.info("%s", verdict.sentence)
    for note in verdict.notes:
        logger.info("%s", note)
    return verdict


def best_settings(results: Sequence[TrialResult], verdict: Verdict) -> Settings:
    """The settings that are to be trained: those of the best contender, with the run's own seed."""
    best = next(result for result in results if result.group == verdict.best)
    return {path: value for path, value in best.settings.items() if path != SEED}


def page(
    name: str,
    objective: str,
    score: Score,
    ranked: Sequence[TrialResult],
    verdict: Verdict,
    baselines: Mapping[str, str],
    best_uri: str,
    surface: Surface | None = None,
) -> str:
    """The page of a sweep as HTML; see ``SweepRecords``."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return render_sweep(
        SweepRecords(name, objective, score, ranked, verdict, baselines, surface, best_uri=best_uri, created=created)
    )
