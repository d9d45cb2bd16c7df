"""tune: many trainings over a space of settings, to a table and a run file with the best of them.

In: the packed tokens and the whole run file. Out: ``table.json``, ``table.md`` and ``best.yaml``, which ``rayllm run``
takes as it is. ``trials.jsonl`` is the ledger: a sweep that was interrupted goes on, and finished trials never run
again. ``execute`` is the part that needs Ray.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from rayllm.core import storage
from rayllm.core.config import to_yaml
from rayllm.core.errors import ConfigError, RunFailed
from rayllm.core.log import get_logger
from rayllm.core.stage import Work
from rayllm.pipelines import evaluate, fit_tokenizer, pack, prepare, report, train
from rayllm.pipelines.tune.branch import branched, branching
from rayllm.pipelines.tune.plan import Plan, make_plan, natural_shares
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.tune.config import TuneConfig
from rayllm.tune.objective import Objective
from rayllm.tune.ranking import rank
from rayllm.tune.results import SEED, Ledger, TrialResult
from rayllm.tune.samplers.recorded import Recorded
from rayllm.tune.samplers.sampler import ListSampler
from rayllm.tune.space import Settings
from rayllm.tune.tables import to_json, to_markdown
from rayllm.tune.trials import apply_settings

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
    """Train what is not trained yet, rank, write the tables and the best run file.

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
    logger.info("%d trials have ended before", len(ledger.finished()))
    judge, explore = plan.objective.at, plan.explore
    sweep = Sweep(plan.base, settings, packed.uri, config.ray, work.directory, judge, explore)
    plan = with_reference(plan, sweep, ledger)
    sweep = replace(sweep, judge=plan.objective.at)
    best = _search_mixture(config, sweep, ledger) if settings.law.until_converged else _search(plan, sweep, ledger)
    ranked = rank(_latest(ledger), plan.objective.of)
    _write(work, config, plan.objective, ranked, best)
    return {
        "trials": len(ranked),
        "failed": sum(result.status == "failed" for result in ranked),
        "best": ranked[0].trial,
        "settings": best,
        settings.objective: plan.objective.of(ranked[0]),
    }


def with_reference(plan: Plan, sweep: Sweep, ledger: Ledger) -> Plan:
    """The plan with an objective that can judge every trial; where it compares with a reference, that is trained first.

    Args:
        plan: What to search.
        sweep: What the trials have in common.
        ledger: Takes the result.

    Raises:
        RunFailed: If the reference failed.
        SavedForRerun: If the sweep was interrupted.
    """
    from rayllm.pipelines.tune.execute import run_trials

    if plan.reference is None:
        return plan
    [reference] = run_trials(ListSampler([plan.reference]), replace(sweep, judge=_alike), ledger) or [None]
    if reference is None or reference.status == "failed":
        why = reference.error if reference else "the budget is spent"
        raise RunFailed("the reference of the objective could not be trained", why=why)
    return plan.against(reference)


def _alike(metrics: Mapping[str, float], tokens: int) -> float:
    """What the reference is above itself."""
    return 0.0


def _search(plan: Plan, sweep: Sweep, ledger: Ledger) -> Settings:
    """Train what the sampler proposes and the ledger lacks; the settings of the best."""
    from rayllm.pipelines.tune.execute import run_trials

    run_trials(Recorded(plan.sampler(), storage.join(sweep.directory, PROPOSALS), ledger), sweep, ledger)
    return rank(_latest(ledger), plan.objective.of)[0].settings


def _search_mixture(config: Config, sweep: Sweep, ledger: Ledger) -> Settings:
    """Look for the best mixture in rounds; see ``mixture_law``."""
    from rayllm.pipelines.tune.mixture_law import search_mixture

    return search_mixture(sweep, base_config(config), ledger)


def _latest(ledger: Ledger) -> list[TrialResult]:
    """The last result of each trial."""
    return list({result.key: result for result in ledger.results}.values())


def check(config: Config) -> None:
    """Refuse a run file without a sweep before its data are made; see ``run_config.check_stage``."""
    train.check(branched(config, _settings(config)))


def fingerprint(config: Config) -> dict[str, str]:
    """What trials depend on besides the run file: the checkpoint that they fork, models and references, as now."""
    return train.fingerprint(branched(config, _settings(config)))


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


def _write(work: Work, config: Config, objective: Objective, ranked: Sequence[TrialResult], chosen: Settings) -> None:
    begun = branching(config)
    shares = begun.shares(ranked) if begun else {}
    table = to_markdown(ranked, objective, shares)
    best = apply_settings(config, {**_without_seed(chosen), "name": f"{config.name}-best"})
    found = to_json(ranked, objective) | ({"from": begun.to_json(shares)} if begun else {})
    storage.write_text(work.path("table.json"), json.dumps(found, indent=1))
    storage.write_text(work.path("table.md"), table)
    storage.write_text(work.path("best.yaml"), to_yaml(best.model_copy(update={"tune": None})))
    logger.info("trials by %s:\n%s", objective.expression, table)
    logger.info("train the best with: rayllm run %s", work.path("best.yaml"))


def _without_seed(settings: Settings) -> Settings:
    """The best is trained with the run's own seed: that of a replicate was not chosen for any merit."""
    return {path: value for path, value in settings.items() if path != SEED}
