"""Searches that learn from results: Optuna's TPE and CMA-ES, through its ask and tell.

Every setting is reached from coordinates between 0 and 1 (see ``dimensions``), a mixture too, so Optuna sees plain
numbers; a choice is the number of its value. Proposals are a function of the seed, their number, and what was asked and
told before. Nothing of Optuna's is stored: a sweep is restored by asking and telling again (see ``recorded``).
"""

import math
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from pydantic import JsonValue

from rayllm.core.rng import derive_seed
from rayllm.tune.coordinates import coordinates_of
from rayllm.tune.dimensions import Choice, Grid
from rayllm.tune.objective import Objective
from rayllm.tune.results import TrialResult
from rayllm.tune.samplers.sampler import name_of
from rayllm.tune.space import Dimension, Settings, Space

if TYPE_CHECKING:
    import optuna

#: Makes Optuna's sampler for a seed; the coordinates, by Optuna's names, are where a search from a point begins.
Make = Callable[[int, Mapping[str, float] | None], "optuna.samplers.BaseSampler"]
#: So many proposals in a row that were made before (one by the model, the rest by chance), and the space is taken to be
#: spent.
FRUITLESS = 100


class ModelSampler:
    """Proposes what a model of the results so far holds for promising.

    Args:
        space: What to choose from.
        objective: What to lower.
        seed: Of the proposals.
        make: Makes Optuna's sampler.
    """

    def __init__(self, space: Space, objective: Objective, seed: int, make: Make) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._objective, self._seed, self._make = space, objective, seed, make
        self._study = optuna.create_study(direction="minimize")
        self._asked: dict[str, optuna.Trial] = {}
        self._results: dict[str, TrialResult] = {}
        self._start: tuple[float, dict[str, float]] | None = None
        self._modelled = False
        self.done = False

    def ask(self) -> Settings | None:
        """The next settings; None if the model only repeats what is being tried."""
        for attempt in range(FRUITLESS):
            trial, settings = self._propose(by_chance=attempt > 0)
            name = name_of(settings)
            if name not in self._asked and name not in self._results:
                self._asked[name] = trial
                return settings
            self._answer(trial, self._results.get(name))
        self.done = self._asked.keys() <= self._results.keys()
        return None

    def tell(self, result: TrialResult) -> None:
        """Learn how a trial ended, also one that was not proposed here; or how far it came, and later how it ended."""
        name = name_of(result.settings)
        earlier = self._results.get(name)
        if earlier and earlier.status != "failed" and (result.status == "failed" or result.tokens <= earlier.tokens):
            return
        if name not in self._asked:
            self._learn(name, result)
            return
        self._results[name] = result
        self._answer(self._asked[name] if earlier is None else self._repeat(self._asked[name], earlier), result)

    def _propose(self, by_chance: bool) -> tuple["optuna.Trial", Settings]:
        import optuna

        seed = derive_seed(self._seed, "tune", len(self._study.trials)) % 2**31
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Optuna calls experimental
            start = self._start[1] if self._start else None
            self._study.sampler = optuna.samplers.RandomSampler(seed) if by_chance else self._make(seed, start)
            trial = self._study.ask()
            self._modelled |= bool(trial.relative_params)
            settings = self._space.walk(lambda path, dimension: self._suggest(trial, path, dimension))
        return trial, settings

    def _learn(self, name: str, result: TrialResult) -> None:
        """Take over a trial that others proposed, a baseline, if it is a point of the space."""
        params: dict[str, float] = {}
        if result.status == "failed" or not self._has_place(result.settings, params):
            return
        import optuna

        self._results[name] = result
        self._study.sampler = optuna.samplers.RandomSampler(0)  # CMA-ES would take it for one of a generation
        self._study.enqueue_trial(params)
        trial = self._study.ask()
        self._space.walk(lambda path, dimension: self._suggest(trial, path, dimension))
        self._answer(trial, result)
        self._begin_at(params, result)

    def _begin_at(self, params: dict[str, float], result: TrialResult) -> None:
        """Let a search from a point begin at the best baseline; once it has begun, its start stays."""
        if self._modelled or result.status != "finished" or self._objective.missing(result.metrics):
            return
        value = self._objective.value(result.metrics, result.tokens)
        if self._start is None or value < self._start[0]:
            self._start = value, params

    def _has_place(self, settings: Settings, params: dict[str, float]) -> bool:
        """Whether settings are a point of the space; adds its coordinates, by Optuna's names."""

        def place(path: str, dimension: Dimension) -> JsonValue:
            value = settings.get(path)
            if isinstance(dimension, Choice | Grid):
                if value in dimension.values:
                    params[path] = dimension.values.index(value)
            elif point := coordinates_of(dimension, value, self._space.shares):
                params.update({f"{path}/{index}": coordinate for index, coordinate in enumerate(point)})
            return value

        placed = self._space.walk(place)
        found = {name.rpartition("/")[0] if name not in placed else name for name in params}
        return placed.keys() == settings.keys() == found

    def _repeat(self, told: "optuna.Trial", earlier: TrialResult) -> "optuna.Trial":
        """A new trial of Optuna's with the coordinates of one that was told as failed, or as stopped and went on."""
        import optuna

        if earlier.status == "stopped":  # CMA-ES has it in its generation
            self._study.sampler = optuna.samplers.RandomSampler(0)
        self._study.enqueue_trial(told.params)
        return self._study.ask(told.distributions)

    def _suggest(self, trial: "optuna.Trial", path: str, dimension: Dimension) -> JsonValue:
        if isinstance(dimension, Choice | Grid):
            number = trial.suggest_categorical(path, range(len(dimension.values)))
            return dimension.values[number]
        size = dimension.size(self._space.shares)
        point = [trial.suggest_float(f"{path}/{index}", 0.0, 1.0) for index in range(size)]
        return dimension.at(point, self._space.shares)

    def _answer(self, trial: "optuna.Trial", result: TrialResult | None) -> None:
        """Tell Optuna; a trial without a value, or one that repeats a running trial, is told as failed."""
        import optuna

        value = self._objective.at(result.metrics, result.tokens) if result else math.nan
        if result is None or result.status == "failed" or math.isnan(value):
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        if result.status == "stopped":
            trial.report(value, result.tokens)
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            self._study.tell(trial, value)


def tpe(startup: int) -> Make:
    """Makes tree-structured Parzen estimators.

    Settings are modelled together, in groups that exist together. Trials that still run count as bad ones (the
    "constant liar"), so that those asked for at the same time differ; a stopped one counts as worse than all that came
    further.

    Args:
        startup: Random proposals before the model is used.

    Source: Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization, section 4; Watanabe 2023,
    arXiv:2304.11127.
    """

    def make(seed: int, start: Mapping[str, float] | None) -> "optuna.samplers.BaseSampler":
        import optuna

        return optuna.samplers.TPESampler(
            n_startup_trials=startup, multivariate=True, group=True, constant_liar=True, seed=seed
        )

    return make


def cma_es(population: int | None) -> Make:
    """Makes covariance matrix adaptation evolution strategies; stopped trials count with their last value.

    The first generation lies around the start, or else around the middle of the space. Optuna does not keep a start
    before that generation has ended, so it must be the same until then.

    Args:
        population: Trials of a generation; by default 4 + 3 ln(coordinates).

    Source: Hansen 2016, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772.
    """

    def make(seed: int, start: Mapping[str, float] | None) -> "optuna.samplers.BaseSampler":
        import optuna

        return optuna.samplers.CmaEsSampler(
            x0=None if start is None else dict(start),
            seed=seed,
            popsize=population,
            consider_pruned_trials=True,
            warn_independent_sampling=False,
        )

    return make
