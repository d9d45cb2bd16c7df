"""``rayllm tune FILE --until-converged``: the search for the best mixture, over trainings.

In: the run file, the packed tokens, a function that trains settings. Out: the mixture to train, and ``law.json``. All
that is remembered is the ledger of the trials.
"""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from rayllm.core import storage
from rayllm.core.errors import ConfigError
from rayllm.core.log import get_logger
from rayllm.data.mixing.plan import Plan
from rayllm.data.mixing.weights import PERIOD
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines import train
from rayllm.pipelines.train.planning import plan_packed
from rayllm.pipelines.tune.trial_runs import Sweep
from rayllm.tune.budget import BudgetConfig
from rayllm.tune.config import TuneConfig
from rayllm.tune.law.design import Bounds
from rayllm.tune.law.rounds import Outcome, Trainings
from rayllm.tune.law.runs import METRIC, Problem
from rayllm.tune.law.sampler import LawSampler
from rayllm.tune.law.summary import confirmation_sentence, proposal_sentence, sentence, to_json
from rayllm.tune.results import Ledger
from rayllm.tune.samplers.sampler import Sampler
from rayllm.tune.schedulers import NoScheduler
from rayllm.tune.simplex import Simplex
from rayllm.tune.space import Settings

FILE = "law.json"
MIXTURE = "mixture.weights"
#: What confirmations train at each seed at most: the proposal, natural, uniform, and the best so far.
RIVALS = 4

#: Settings that only sweeps without a law read, and those of a simplex that shape draws.
OF_ORDINARY_SWEEPS = {"sampler", "baselines", "replicates", "significance"}
OF_DRAWS = {"around", "concentration", "pull"}

#: Trains what a sampler proposes until it is done or the budget is spent, as ``run_trials`` does.
Execute = Callable[[Sampler], Any]

logger = get_logger(__name__)


def search_mixture(sweep: Sweep, full: train.Config, ledger: Ledger) -> Settings:
    """Search with trials, and write ``law.json`` beside them.

    Args:
        sweep: What the trials have in common.
        full: What the run file trains.
        ledger: Of the trials: all that is remembered.

    Returns:
        The settings of the mixture to train.

    Raises:
        ConfigError: See ``make_problem``.
        RunFailed: If too few trainings finished.
        SavedForRerun: If the sweep was interrupted.
    """
    from rayllm.pipelines.tune.execute import run_trials

    packed = PackedData.open(sweep.packed_uri)
    problem = make_problem(sweep, full, packed)
    limited = replace(
        sweep, settings=sweep.settings.model_copy(update={"budget": budget(sweep.settings, len(problem.sizes))})
    )
    outcome = find_mixture(problem, lambda sampler: run_trials(sampler, limited, ledger), key_of(sweep))
    storage.write_text(storage.join(sweep.directory, FILE), json.dumps(to_json(problem, outcome), indent=1))
    return problem.settings(outcome.best)


def key_of(sweep: Sweep) -> Callable[[Settings], str]:
    """What a training is known by: one that the ledger has under other settings, as the run file's own, is found."""
    return lambda settings: sweep.plan(0, settings).key


def find_mixture(problem: Problem, execute: Execute, key: Callable[[Settings], str]) -> Outcome:
    """Search to the end, telling how it goes.

    Args:
        problem: What is asked.
        execute: See ``Execute``. Called once: a process that trains stays warm from the first round to the last.
        key: The key of the training of some settings.

    Raises:
        RunFailed: If too few trainings finished.
        SavedForRerun: If training was interrupted; the same call goes on.
    """

    def say(step: Trainings) -> None:
        if step.proposal:
            logger.info("%s", proposal_sentence(problem, step.proposal))
        logger.info("%s: %d trainings", step.purpose, len(step.settings))

    sampler = LawSampler(problem, key, say)
    execute(sampler)
    outcome = sampler.outcome()
    for number, one in enumerate(outcome.rounds, 1):
        if one.confirmation:
            logger.info("round %d: %s", number, confirmation_sentence(one.confirmation))
    logger.info("%s", sentence(problem, outcome))
    return outcome


def make_problem(sweep: Sweep, full: train.Config, packed: PackedData) -> Problem:
    """What the law is asked, checked.

    Args:
        sweep: What the trials have in common.
        full: What the run file trains, whose tokens the repetition caps are about.
        packed: The data.

    Raises:
        ConfigError: If the sweep is not one of a mixture alone, or asks for what the law does not model.
    """
    settings, base = sweep.settings, sweep.config
    path, simplex = _varied(settings)
    sizes = {name: packed.stream("train", name).num_tokens for name in packed.domains("train")}
    low, high = simplex.limits(sizes)
    caps = repetition_caps(full, plan_packed(full, packed), path)
    tokens = plan_packed(base, packed).total_tokens
    problem = Problem(
        config=settings.law,
        path=path,
        sizes=sizes,
        metrics=tuple(METRIC + name for name in packed.domains("validation")),
        objective=lambda metrics: sweep.judge(metrics, tokens),
        bounds=Bounds(np.asarray(low), np.minimum(high, [caps[name] for name in sizes])),
        run_seed=base.seed,
        sweep_seed=settings.seed,
    )
    _check(problem, base, settings)
    return problem


def repetition_caps(full: train.Config, plan: Plan, path: str) -> dict[str, float]:
    """The greatest share of each domain with which the whole run reads none more often than ``mixture.max_epochs``.

    Args:
        full: The run.
        plan: Its stages.
        path: The weights that are varied: the run's, or a stage's.
    """
    weighted = [index for index, stage in enumerate(full.curriculum) if stage.weights is not None]
    own = [int(path.split(".")[1])] if path != MIXTURE else None
    varied = [row for row in plan.stages if (row.stage in own if own else row.stage not in weighted)]
    fixed = [row for row in plan.stages if row not in varied]
    read, epochs = sum(row.tokens for row in varied), full.mixture.caps(plan.domains)
    caps = {}
    for place, (name, size) in enumerate(plan.domain_tokens.items()):
        left = epochs[name] * size - sum(row.tokens * row.weights[place] / PERIOD for row in fixed)
        caps[name] = min(1.0, max(0.0, left / read))
    return caps


def budget(settings: TuneConfig, domains: int) -> BudgetConfig:
    """The budget that was set; else as many trials as the rounds may need."""
    if "budget" in settings.model_fields_set:
        return settings.budget
    law = settings.law
    points = law.runs_per_domain * domains + (law.rounds - 1) * law.refine_per_domain * domains + 2
    most = math.ceil(points) + law.rounds * law.seeds * RIVALS
    return BudgetConfig(trials=most, hours=None, device_hours=None)


def _varied(settings: TuneConfig) -> tuple[str, Simplex]:
    """The weights that are varied."""
    found = list(settings.space.items())
    path, dimension = found[0]
    if len(found) == 1 and isinstance(dimension, Simplex) and path.split(".")[-1] == "weights":
        return path, dimension
    raise ConfigError(
        "the law is about one mixture, and nothing else may vary",
        where="tune.space",
        why=f"the space has {', '.join(settings.space)}",
        fix="leave `mixture.weights: {kind: simplex}` alone in it, or run the sweep without --until-converged",
    )


def _check(problem: Problem, base: train.Config, settings: TuneConfig) -> None:
    """Refuse what would change the meaning of the law's trainings, what it does not model, and what it would ignore."""
    simplex = settings.space[problem.path]
    unused = sorted(OF_ORDINARY_SWEEPS & settings.model_fields_set) + [
        f"space.{problem.path}.{name}" for name in sorted(OF_DRAWS & simplex.model_fields_set)
    ]
    if unused:
        raise ConfigError(
            "a law chooses its own points, and confirms them its own way",
            where=", ".join(f"tune.{name}" for name in unused),
            why="nothing would come of what is set there",
            fix="remove it (the law's own settings are in tune.law), or run the sweep without --until-converged",
        )
    if not isinstance(settings.scheduler, NoScheduler):
        raise ConfigError(
            "a law compares trainings of the same tokens, so none may be stopped early",
            where="tune.scheduler",
            fix="remove the scheduler, or run the sweep without --until-converged",
        )
    if not math.isfinite(problem.score(np.ones(len(problem.metrics)))):
        raise ConfigError(
            "the law models bits per byte, and the objective reads something else",
            where="tune.objective",
            why=f"it is {settings.objective}",
            fix="use `mean_bits_per_byte`, `bits_per_byte/<domain>`, or an expression of these",
        )
    stage = base.curriculum[int(problem.path.split(".")[1])] if problem.path != MIXTURE else None
    temperature = stage.temperature if stage else base.mixture.temperature
    if temperature not in (None, 1.0):
        raise ConfigError(
            f"a temperature of {temperature:g} would change the weights that the law tries",
            where=problem.path.replace("weights", "temperature"),
            fix="remove it for this sweep",
        )
