"""tune: many trainings over a space of settings, to a table and a run file with the best of them.

In: the packed tokens and the whole run file. Out: ``table.json``, ``table.md``, ``sweep.html`` and ``best.yaml``, which
``rayllm run`` takes as it is. ``trials.jsonl`` is the ledger: a sweep that was interrupted goes on, and finished trials
never run again. ``execute`` is the part that needs Ray, ``belief`` the part that judges.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from rayllm.core import storage
from rayllm.core.artifact import Manifest
from rayllm.core.config import to_yaml
from rayllm.core.errors import ConfigError, RunFailed
from rayllm.core.log import get_logger
from rayllm.core.stage import Work
from rayllm.pipelines import evaluate, fit_tokenizer, pack, prepare, report, train
from rayllm.pipelines.tune.belief import (
    FoundMixture,
    best_settings,
    confirm,
    confirming,
    latest,
    page,
    said_by_law,
    say,
    searching,
    verdict_of,
)
from rayllm.pipelines.tune.branch import branched, branching, trained_before
from rayllm.pipelines.tune.plan import Plan, make_plan, natural_shares
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.tune.budget import BudgetConfig
from rayllm.tune.config import TuneConfig
from rayllm.tune.ranking import rank
from rayllm.tune.results import Ledger, TrialResult
from rayllm.tune.samplers.recorded import Recorded
from rayllm.tune.samplers.sampler import ListSampler
from rayllm.tune.space import Settings
from rayllm.tune.tables import to_json, to_markdown
from rayllm.tune.trials import apply_settings
from rayllm.tune.verdict import Verdict
from rayllm.tune.verdict_text import verdict_markdown

VERSION = 2

#: What the sampler proposed and was told; see ``samplers.recorded``.
PROPOSALS = "proposals.jsonl"

logger = get_logger(__name__)


class Config(prepare.Config, fit_tokenizer.Config, pack.Config, train.Config, evaluate.Config, report.Config):
    """The whole run file: trials read what train reads, and ``best.yaml`` repeats the rest."""

    tune: TuneConfig | None = Field(None, description="What `rayllm tune` searches, and how.")

    def identity(self) -> dict[str, Any]:
        """What shapes the trials; the rest of the file is in the parents' hashes, or only repeated."""
        return {name: value for name, value in super().identity().items() if name in _shaping()}


def _shaping() -> set[str]:
    return {*train.Config.model_fields, "tune"}


def run(work: Work) -> dict[str, Any]:
    """Train what is not trained yet, confirm the leaders, judge; write the tables, the page and the best run file.

    Raises:
        ConfigError: If there is no ``tune:`` section, or a trial would be no valid run.
        RunFailed: If every trial failed.
        SavedForRerun: If the sweep was interrupted.
    """
    settings = _settings(work.config)
    config: Config = branched(work.config, settings)
    if begun := branching(config):
        logger.info("%s", begun.describe(settings.max_steps or config.train.max_steps))
    packed = work.inputs["pack"]
    packed.verify(deep=True)
    plan = planned(config, packed.uri)
    ledger = Ledger(work.path("trials.jsonl"))
    if ended := len(ledger.finished()):
        logger.info("%d trials have ended before", ended)
    judge, explore = plan.objective.at, plan.explore
    reference = work.inputs["reference"].uri if "reference" in work.inputs else ""
    sweep = Sweep(plan.base, settings, packed.uri, config.ray, work.directory, judge, explore, reference)
    plan = with_reference(plan, sweep, ledger)
    sweep = replace(sweep, judge=plan.objective.at)
    law = _search_mixture(config, sweep, ledger) if settings.law.until_converged else None
    if law is None:
        _search(plan, replace(sweep, settings=searching(settings)), ledger)
        _confirm(plan, replace(sweep, settings=confirming(settings)), ledger)
    else:
        plan = replace(plan, names=law.references)
    ranked = rank(latest(ledger), plan.objective.of)
    if law is None:
        verdict = verdict_of(ranked, settings, plan.objective.of, plan.names)
    else:
        verdict = said_by_law(law, ranked, settings, plan.objective.of)
    _write(work, config, plan, ranked, verdict, law)
    return {
        "trials": len(ranked),
        "failed": sum(result.status == "failed" for result in ranked),
        "best": verdict.trial,
        "settings": best_settings(ranked, verdict),
        settings.objective: verdict.mean,
        "verdict": verdict.sentence,
    }


def with_reference(plan: Plan, sweep: Sweep, ledger: Ledger) -> Plan:
    """The plan with an objective that can judge every trial; where it compares with a reference, that is trained first.

    A reference that the ledger has is taken from it, also where the budget has nothing left.

    Args:
        plan: What to search.
        sweep: What the trials have in common.
        ledger: Takes the result.

    Raises:
        RunFailed: If the reference failed, or the budget ended before it did.
        SavedForRerun: If the sweep was interrupted.
    """
    from rayllm.pipelines.tune.execute import run_trials

    if plan.reference is None:
        return plan
    reference = ledger.finished().get(sweep.plan(0, plan.reference).key)
    if reference is None:
        [reference] = run_trials(ListSampler([plan.reference]), replace(sweep, judge=_alike), ledger) or [None]
    if reference is None or reference.status != "finished":
        why = (reference and reference.error) or "the budget is spent"
        raise RunFailed("the reference of the objective could not be trained", why=why)
    return plan.against(reference)


def _alike(metrics: Mapping[str, float], tokens: int) -> float:
    """What the reference is above itself."""
    return 0.0


def _search(plan: Plan, sweep: Sweep, ledger: Ledger) -> None:
    """Train what the sampler proposes and the ledger lacks."""
    from rayllm.pipelines.tune.execute import run_trials

    run_trials(Recorded(plan.sampler(), storage.join(sweep.directory, PROPOSALS)), sweep, ledger)


def _search_mixture(config: Config, sweep: Sweep, ledger: Ledger) -> FoundMixture:
    """Look for the best mixture in rounds; see ``mixture_law``."""
    from rayllm.pipelines.tune.mixture_law import FILE, search_mixture

    best = search_mixture(sweep, base_config(config), ledger)
    law = json.loads(storage.read_text(storage.join(sweep.directory, FILE)))
    return FoundMixture.read(law, best, sweep.plan(0, best).key)


def _confirm(plan: Plan, sweep: Sweep, ledger: Ledger) -> None:
    """Train the leaders of the search again, with fresh seeds."""
    from rayllm.pipelines.tune.execute import run_trials

    def train_these(wanted: Sequence[Settings]) -> None:
        run_trials(ListSampler(wanted), sweep, ledger)

    confirm(ledger, train_these, sweep.settings, plan.objective.of, plan.baselines)


def check(config: Config) -> None:
    """Refuse a run file without a sweep before its data are made; see ``run_config.check_stage``."""
    train.check(branched(config, _settings(config)))


def fingerprint(config: Config) -> dict[str, str]:
    """What trials depend on besides the run file: the checkpoint that they fork, models and references, as now."""
    return train.fingerprint(branched(config, _settings(config)))


def goes_on(config: Config, manifest: Manifest) -> bool:
    """Whether a sweep that has ended is taken up again: its budget was raised since."""
    earlier = BudgetConfig.model_validate(manifest.config["tune"]["budget"])
    return _settings(config).budget.exceeds(earlier)


def _settings(config: Config) -> TuneConfig:
    if config.tune is None:
        raise ConfigError(
            "the run file has no section `tune:`",
            fix="add one with a `space:`, as in configs/sweep/quickstart-mixture.yaml",
        )
    return config.tune


def planned(config: Config, packed_uri: str) -> Plan:
    """The sweep of a run file, checked; see ``plan.make_plan``.

    Raises:
        ConfigError: If the space or the objective names what does not exist, or a trial would be no valid run.
    """
    from rayllm.data.shards.packed import PackedData

    packed = PackedData.open(packed_uri)
    return make_plan(base_config(config), _settings(config), natural_shares(packed), packed.domains("validation"))


def base_config(config: Config) -> train.Config:
    """The part of the run file that trials read."""
    return train.Config.model_validate({name: getattr(config, name) for name in train.Config.model_fields})


def _write(
    work: Work,
    config: Config,
    plan: Plan,
    ranked: Sequence[TrialResult],
    verdict: Verdict,
    law: FoundMixture | None,
) -> None:
    objective, best_uri, surface = plan.objective, work.path("best.yaml"), law.surface if law else None
    per_hour = plan.settings.price_per_hour
    begun = branching(config)
    shares = begun.shares(ranked) if begun else {}
    natural, trained = plan.space.shares, trained_before(config, plan.settings.space, ranked)
    html = page(
        config.name, objective, ranked, verdict, plan.names, best_uri, natural, surface, shares, per_hour, trained
    )
    table = to_markdown(ranked, objective, shares, per_hour, trained)
    best = apply_settings(config, {**best_settings(ranked, verdict), "name": f"{config.name}-best"})
    numbers = to_json(ranked, objective, per_hour, trained) | ({"from": begun.to_json(shares)} if begun else {})
    numbers |= {"best": verdict.trial, "verdict": verdict.model_dump(mode="json")}
    storage.write_text(work.path("table.json"), json.dumps(numbers, indent=1))
    storage.write_text(work.path("table.md"), f"{verdict_markdown(verdict)}\n{table}")
    storage.write_text(best_uri, to_yaml(best.model_copy(update={"tune": None})))
    storage.write_text(work.path("sweep.html"), html)
    logger.info("trials by %s:\n%s", objective.expression, table)
    say(verdict)
    logger.info("the sweep as a page: %s", work.path("sweep.html"))
    logger.info("train the best with: rayllm run %s", best_uri)
