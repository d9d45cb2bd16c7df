"""Trainings of the law as settings, and their results back as arrays.

In: the ledger's results. Out: which of the wanted trainings there are, with mixtures as arrays and the objective of
each. The only place where the law meets ``Settings`` and ``TrialResult``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float64

from rayllm.data.mixing.weights import Weights, domain_shares
from rayllm.tune.law.config import LawConfig
from rayllm.tune.law.confirm import Measured
from rayllm.tune.law.design import Bounds, Shares
from rayllm.tune.results import TrialResult
from rayllm.tune.space import Settings

METRIC = "bits_per_byte/"
NATURAL, UNIFORM = "natural", "uniform"


@dataclass(frozen=True)
class Problem:
    """What the law is asked.

    Attributes:
        config: Its settings.
        path: The setting that the weights are written to.
        sizes: Tokens of each training domain.
        metrics: Names of the metrics that are modelled, ``bits_per_byte/<validation domain>``.
        objective: Metrics of a training to what is minimised.
        bounds: Within which mixtures are tried and proposed.
        run_seed: The run file's seed, at which the swarm is trained.
        sweep_seed: Of all draws.
    """

    config: LawConfig
    path: str
    sizes: Mapping[str, int]
    metrics: tuple[str, ...]
    objective: Callable[[Mapping[str, float]], float]
    bounds: Bounds
    run_seed: int
    sweep_seed: int

    @property
    def domains(self) -> list[str]:
        """Names of the training domains."""
        return list(self.sizes)

    @property
    def natural(self) -> Shares:
        """Natural shares."""
        return self.shares(NATURAL)

    def shares(self, weights: Weights) -> Shares:
        """Weights as the user or a setting gives them, as an array."""
        return np.asarray(list(domain_shares(weights, self.sizes, self.path).values()))

    def score(self, values: Float64[np.ndarray, " metrics"]) -> float:
        """The objective of modelled metrics."""
        return self.objective(with_mean(dict(zip(self.metrics, values.tolist(), strict=True))))

    def weights(self, shares: Shares) -> dict[str, float]:
        """A mixture as a setting."""
        return dict(zip(self.domains, shares.tolist(), strict=True))

    def settings(self, weights: Weights, seed: int | None = None) -> Settings:
        """The settings of a training."""
        chosen = {self.path: weights if isinstance(weights, str) else dict(weights)}
        return cast(Settings, chosen if seed is None else {**chosen, "seed": seed})


def with_mean(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics of the domains with their mean, as a validation has it."""
    return {**metrics, "mean_bits_per_byte": float(np.mean(list(metrics.values())))}


def same(settings: Settings) -> str:
    """Equal for equal settings."""
    return json.dumps(settings, sort_keys=True)


class Book:
    """The results there are, by their settings.

    Args:
        problem: What the law is asked.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._results: dict[str, TrialResult] = {}

    def add(self, results: Sequence[TrialResult]) -> None:
        """Note some results."""
        self._results |= {same(result.settings): result for result in results}

    def missing(self, wanted: Sequence[Settings]) -> list[Settings]:
        """Those of some trainings that did not end by themselves; a failed one did, what the budget stopped did not."""
        made = {name for name, result in self._results.items() if result.status != "stopped"}
        return [settings for settings in wanted if same(settings) not in made]

    def finished(self, wanted: Sequence[Settings]) -> list[TrialResult]:
        """The results of those that were trained to their end."""
        found = [self._results[same(settings)] for settings in wanted if same(settings) in self._results]
        return [result for result in found if result.status == "finished"]

    def measured(self, wanted: Sequence[Settings]) -> list[Measured]:
        """Objectives of the finished ones by mixture and seed."""
        problem = self._problem
        return [
            Measured(name_of(result.settings[problem.path]), result.seed, problem.objective(result.metrics))
            for result in self.finished(wanted)
        ]

    def table(self, wanted: Sequence[Settings]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Different mixtures (mixtures, domains), their mean metrics (mixtures, metrics), and runs of each."""
        problem = self._problem
        groups: dict[str, list[TrialResult]] = {}
        for result in self.finished(wanted):
            groups.setdefault(name_of(result.settings[problem.path]), []).append(result)
        shares = [problem.shares(cast(Weights, group[0].settings[problem.path])) for group in groups.values()]
        rows = [
            np.mean([[result.metrics[name] for name in problem.metrics] for result in group], axis=0)
            for group in groups.values()
        ]
        return np.asarray(shares), np.asarray(rows), np.asarray([float(len(group)) for group in groups.values()])


def name_of(weights: object) -> str:
    """A mixture's name: its weights, or the word that stands for them."""
    return weights if isinstance(weights, str) else json.dumps(weights)
