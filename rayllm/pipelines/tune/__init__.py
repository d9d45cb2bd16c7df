"""tune: many trainings over a space of settings, to a table and a run file with the best of them.

In: the packed tokens and the whole run file. Out: ``table.json``, ``table.md`` and ``best.yaml``, which ``rayllm run``
takes as it is. ``trials.jsonl`` is the ledger: a sweep that was interrupted goes on, and finished trials never run
again. ``execute`` is the part that needs Ray.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from rayllm.core import storage
from rayllm.core.config import to_yaml
from rayllm.core.config_problems import field_paths
from rayllm.core.errors import ConfigError
from rayllm.core.log import get_logger
from rayllm.core.stage import Work
from rayllm.pipelines import evaluate, fit_tokenizer, pack, prepare, report, train
from rayllm.pipelines.tune.trial_runs import Judge, Sweep, TrialRun, plan_trial
from rayllm.tune.config import TuneConfig
from rayllm.tune.ranking import rank
from rayllm.tune.results import Ledger, TrialResult
from rayllm.tune.samplers.sampler import ListSampler
from rayllm.tune.space import Grid, Settings, propose
from rayllm.tune.tables import to_json, to_markdown
from rayllm.tune.trials import apply_settings, check_paths, trial_configs, unique_trials

VERSION = 2

#: Settings that trials do not read: where a run is, and how many processes it has. A trial is one process.
_NOT_OF_A_TRIAL = ("name", "storage", "ray", "train.engine", "train.workers")
#: What `tune.max_steps` takes the place of.
_NO_OTHER_BUDGET = {"train.tokens": None, "train.tokens_per_param": None}

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
    config: Config = work.config
    settings = _settings(config)
    packed = work.inputs["pack"]
    packed.verify(deep=True)
    ledger = Ledger(work.path("trials.jsonl"))
    if settings.law.until_converged:
        return _search_mixture(work, config, settings, ledger)
    runs = plan_runs(config, settings, *_domains(packed.uri), work.path("trials"))
    pending = [one for one in runs if one.key not in ledger.finished()]
    logger.info("%d trials, %d of them finished before", len(runs), len(runs) - len(pending))
    if pending:
        from rayllm.pipelines.tune.execute import run_trials

        judge = _judge(settings.objective)
        sweep = Sweep(base_config(config, settings), settings, packed.uri, config.ray, work.directory, judge)
        run_trials(ListSampler(one.trial.settings for one in runs), sweep, ledger)
    latest = {result.key: result for result in ledger.results}
    ranked = rank([latest[one.key] for one in runs if one.key in latest], settings.objective)
    _write(work, config, settings.objective, ranked, ranked[0].settings)
    return {
        "trials": len(ranked),
        "failed": sum(result.status == "failed" for result in ranked),
        "best": ranked[0].trial,
        "settings": ranked[0].settings,
        settings.objective: ranked[0].metrics[settings.objective],
    }


def _search_mixture(work: Work, config: Config, settings: TuneConfig, ledger: Ledger) -> dict[str, Any]:
    """Look for the best mixture in rounds; see ``mixture_law``."""
    from rayllm.pipelines.tune.mixture_law import search_mixture

    packed_uri, judge = work.inputs["pack"].uri, _judge(settings.objective)
    sweep = Sweep(base_config(config, settings), settings, packed_uri, config.ray, work.directory, judge)
    full = train.Config.model_validate({name: getattr(config, name) for name in train.Config.model_fields})
    best = search_mixture(sweep, full, ledger)
    latest = {result.key: result for result in ledger.results}
    ranked = rank(list(latest.values()), settings.objective)
    _write(work, config, settings.objective, ranked, best)
    return {
        "trials": len(ranked),
        "failed": sum(result.status == "failed" for result in ranked),
        "settings": best,
    }


def _judge(objective: str) -> Judge:
    return lambda metrics, tokens: metrics.get(objective, math.nan)


def check(config: Config) -> None:
    """Refuse a run file without a sweep before its data are made; see ``run_config.check_stage``."""
    _settings(config)


def _settings(config: Config) -> TuneConfig:
    if config.tune is None:
        raise ConfigError(
            "the run file has no section `tune:`",
            fix="add one with a `space:`, as in configs/sweep/quickstart-mixture.yaml",
        )
    return config.tune


def _domains(packed_uri: str) -> tuple[list[str], list[str]]:
    from rayllm.data.shards.packed import PackedData

    packed = PackedData.open(packed_uri)
    return packed.domains("train"), packed.domains("validation")


def plan_runs(
    config: Config, settings: TuneConfig, domains: Sequence[str], validation_domains: Sequence[str], directory: str
) -> list[TrialRun]:
    """All trials of a sweep, each checked: the baselines, then the samples.

    Args:
        config: The run file.
        settings: Its ``tune:`` section.
        domains: Training domains, for ``simplex``.
        validation_domains: Validation domains, for the objective.
        directory: Where the trials write.

    Raises:
        ConfigError: If the space or the objective names what does not exist, or a trial would be no valid run.
    """
    _check_objective(settings.objective, validation_domains)
    known = [path for path in field_paths(train.Config) if not _below(path, _NOT_OF_A_TRIAL)]
    check_paths(settings.space, known, "tune.space")
    check_paths([path for one in settings.baselines for path in one], known, "tune.baselines")
    _check_weights_are_read(config, settings)
    base = base_config(config, settings)
    trials = unique_trials([*settings.baselines, *_samples(settings, domains)])
    configs = trial_configs(base, trials)
    return [plan_trial(trial, one, directory) for trial, one in zip(trials, configs, strict=True)]


def base_config(config: Config, settings: TuneConfig) -> train.Config:
    """What a trial without settings trains."""
    base = train.Config.model_validate({name: getattr(config, name) for name in train.Config.model_fields})
    if settings.max_steps is not None:
        base = apply_settings(base, {"train.max_steps": settings.max_steps, **_NO_OTHER_BUDGET})
    return base


def _samples(settings: TuneConfig, domains: Sequence[str]) -> list[Settings]:
    """Samples of the space within the budget; a space without chance is a grid, tried as a whole."""
    room = (settings.budget.trials or 0) - len(settings.baselines)
    if all(isinstance(dimension, Grid) for dimension in settings.space.values()):
        grid = propose(settings.space, 1, settings.seed, domains)
        if len(grid) > room:
            needed = len(grid) + len(settings.baselines)
            raise ConfigError(
                f"the grid and its baselines are {needed} trials, more than the budget",
                where="tune.budget.trials",
                fix=f"set it to {needed}, or try fewer values",
            )
        return grid
    return propose(settings.space, max(room, 0), settings.seed, domains)[: max(room, 0)]


def _below(path: str, prefixes: Sequence[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def _check_objective(objective: str, domains: Sequence[str]) -> None:
    known = ["mean_bits_per_byte", "mean_loss"]
    known += [f"{metric}/{name}" for metric in ("bits_per_byte", "loss", "perplexity") for name in domains]
    if objective not in known:
        raise ConfigError(
            f"there is no metric {objective!r} to rank by", where="tune.objective", fix=f"use one of {', '.join(known)}"
        )


def _check_weights_are_read(config: Config, settings: TuneConfig) -> None:
    """Refuse to vary weights that every stage of the curriculum overrides: all trials would be the same."""
    varied = "mixture.weights" in settings.space
    if varied and config.curriculum and all(stage.weights is not None for stage in config.curriculum):
        raise ConfigError(
            "the sweep varies `mixture.weights`, which no stage of the curriculum uses",
            where="tune.space",
            fix="vary `curriculum.0.weights`, or remove the weights of a stage",
        )


def _write(work: Work, config: Config, objective: str, ranked: Sequence[TrialResult], chosen: Settings) -> None:
    table = to_markdown(ranked, objective)
    best = apply_settings(config, {**chosen, "name": f"{config.name}-best"})
    storage.write_text(work.path("table.json"), json.dumps(to_json(ranked, objective), indent=1))
    storage.write_text(work.path("table.md"), table)
    storage.write_text(work.path("best.yaml"), to_yaml(best.model_copy(update={"tune": None})))
    logger.info("trials by %s:\n%s", objective, table)
    logger.info("train the best with: rayllm run %s", work.path("best.yaml"))
