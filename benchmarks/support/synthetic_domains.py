"""Domains whose best mixture is known: what a training on a mixture would measure, by formulas, in microseconds.

Two kinds. ``transfer`` is a law of its own: each validation domain's bits per byte fall with a power of the tokens that
help it, its own and part of the others', and pairs of domains disturb or help each other. It is outside of every family
that is fitted. ``exponential`` is the fitted family itself. A training adds noise: a part that its seed gives to all
mixtures alike, and a part of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rayllm.core.rng import derive_seed
from rayllm.tune.law.config import LawConfig
from rayllm.tune.law.design import Bounds, Points, Shares
from rayllm.tune.law.log_linear import Losses
from rayllm.tune.law.optimum import Region, minimise
from rayllm.tune.law.rounds import Outcome
from rayllm.tune.law.runs import METRIC, Problem, same, with_mean
from rayllm.tune.law.sampler import LawSampler
from rayllm.tune.results import TrialResult
from rayllm.tune.space import Settings

PATH = "mixture.weights"
TOKENS = 1_000_000
FLOOR = 0.02


def mean_of(metrics: Mapping[str, float]) -> float:
    """The usual objective."""
    return metrics["mean_bits_per_byte"]


@dataclass(frozen=True)
class Domains:
    """Some domains.

    Attributes:
        count: How many.
        seed: Of all that shapes them.
        noise: Standard deviation of a training's bits per byte in each domain, without its seed's part.
        kind: ``transfer``, ``exponential``, or ``flat``: mixtures make no difference.
    """

    count: int
    seed: int
    noise: float
    kind: str = "transfer"

    @cached_property
    def _shape(self) -> dict[str, np.ndarray]:
        rng, count = np.random.default_rng(self.seed), self.count
        natural = np.maximum(rng.dirichlet(np.full(count, 2.0)), 0.03)
        return {
            "sizes": np.round(natural / natural.sum() * TOKENS),
            "floor": rng.uniform(0.5, 1.0, count),
            "height": rng.uniform(0.3, 0.8, count),
            "power": rng.uniform(0.15, 0.4, count),
            "rate": rng.uniform(1, 4, count),
            "help": np.where(np.eye(count) > 0, 1.0, rng.uniform(0, 0.25, (count, count))),
            "pairs": rng.normal(0, 0.06, (count, count, count)),
            "slopes": 2 * (np.eye(count) * -rng.uniform(0.2, 1, (count, count)) + rng.normal(0, 0.15, (count, count))),
        }

    def bits_per_byte(self, mixtures: Points) -> Losses:
        """What an endless number of trainings would give on average."""
        shape = self._shape
        if self.kind == "flat":
            return np.broadcast_to(shape["floor"], mixtures.shape).copy()
        if self.kind == "exponential":
            return shape["floor"] + shape["height"] * np.exp(mixtures @ shape["slopes"].T)
        tokens = (mixtures @ shape["help"].T) * shape["rate"] + 0.05
        disturbed = np.einsum("pi,pj,dij->pd", mixtures, mixtures, shape["pairs"])
        return shape["floor"] + shape["height"] * tokens ** -shape["power"] + disturbed

    def problem(self, config: LawConfig, objective: Callable[[Mapping[str, float]], float] = mean_of) -> Problem:
        """The question to the law."""
        names = [f"domain{index}" for index in range(self.count)]
        return Problem(
            config=config,
            path=PATH,
            sizes=dict(zip(names, self._shape["sizes"].astype(int).tolist(), strict=True)),
            metrics=tuple(METRIC + name for name in names),
            objective=objective,
            bounds=Bounds(np.full(self.count, FLOOR), np.ones(self.count)),
            run_seed=self.seed,
            sweep_seed=self.seed,
        )

    def train(self, problem: Problem, settings: Settings) -> TrialResult:
        """A training: the same settings give the same result."""
        seed = int(str(settings.get("seed", problem.run_seed)))
        shares = problem.shares(settings[problem.path])  # pyright: ignore[reportArgumentType]
        own = np.random.default_rng(derive_seed(self.seed, "noise", seed, same(settings)))
        common = np.random.default_rng(derive_seed(self.seed, "noise", seed)).normal(0, 2 * self.noise)
        values = self.bits_per_byte(shares[None])[0] + common + own.normal(0, self.noise, self.count)
        metrics = with_mean(dict(zip(problem.metrics, values.tolist(), strict=True)))
        key = same(settings)
        return TrialResult(
            trial=0, key=key, settings=settings, group=key, seed=seed, metrics=metrics, status="finished", tokens=TOKENS
        )

    def possible(self, problem: Problem) -> tuple[float, float]:
        """Objective of the better of natural and uniform, and of the true optimum."""
        region = Region(problem.bounds, problem.natural, 0.0)
        best = minimise(self.bits_per_byte, problem.score, region, smooth=True, seed=0)
        known = [self.objective_of(problem, problem.shares(name)) for name in ("natural", "uniform")]
        return min(known), self.objective_of(problem, best)

    def objective_of(self, problem: Problem, shares: Shares) -> float:
        """True objective of a mixture."""
        return problem.score(self.bits_per_byte(shares[None])[0])


def train_all(problem: Problem, train: Callable[[Settings], TrialResult]) -> tuple[Outcome, int]:
    """Search to the end; also the number of trainings."""
    trained: dict[str, TrialResult] = {}
    sampler = LawSampler(problem, same)
    while (settings := sampler.ask()) is not None:
        name = same(settings)
        trained[name] = trained.get(name) or train(settings)
        sampler.tell(trained[name])
    return sampler.outcome(), len(trained)
