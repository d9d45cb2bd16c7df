"""How much of the possible gain the mixture law finds, for how many trainings, on domains whose best mixture is known.

The domains are those of ``support/synthetic_domains.py``: their metrics follow a law that is outside of every family
that is fitted (``transfer``), or inside (``exponential``). The gain that is possible is from the better of the natural
and the uniform mixture to the true optimum. Beside the whole search with its confirmations, at as many trainings each:
the best trial of a space-filling design, and the best trial of random mixtures. Shares are sums over all sets of
domains: what was gained over what was possible. A *wrong* verdict names a mixture that is truly no better.

Boosted trees are compared only with ``--trees``: they take most of the time, and are seldom the best of so few runs.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from support.line_plot import Line, line_plot
from support.results import Table
from support.synthetic_domains import Domains, train_all

from rayllm.tune.law import surfaces, validation
from rayllm.tune.law.config import LawConfig
from rayllm.tune.law.design import Points, Shares, dirichlet_pool, fill_space
from rayllm.tune.law.runs import Problem

WAYS = ("law", "best trial", "random search")
#: Runs of the first round for each domain.
EFFORTS = (2, 4, 8)


@dataclass(frozen=True)
class Case:
    """Some sets of domains and the effort on them."""

    kind: str
    count: int
    noise: float
    effort: float


@dataclass(frozen=True)
class Search:
    """One search on one set of domains.

    Attributes:
        case: What was asked.
        trainings: That it took.
        possible: Gain that was possible.
        gained: Gain by each of ``WAYS``.
        confirmed: Whether a proposal was named better.
    """

    case: Case
    trainings: int
    possible: float
    gained: tuple[float, ...]
    confirmed: bool


def search_once(case: Case, seed: int, trees: bool) -> Search:
    """All ways on one set of domains, at as many trainings as the law took."""
    if not trees:
        validation.FAMILIES = tuple(family for family in surfaces.FAMILIES if family.smooth)
    domains = Domains(case.count, seed, case.noise, case.kind)
    problem = domains.problem(LawConfig(runs_per_domain=case.effort))
    outcome, trainings = train_all(problem, lambda settings: domains.train(problem, settings))
    reference, best = domains.possible(problem)
    found = [
        problem.shares(outcome.best),
        lowest(domains, problem, designed(problem, trainings)),
        lowest(domains, problem, at_random(problem, trainings)),
    ]
    gained = tuple(reference - domains.objective_of(problem, shares) for shares in found)
    return Search(case, trainings, reference - best, gained, outcome.confirmed)


def designed(problem: Problem, count: int) -> Points:
    """A design as the law's, with more points in place of confirmations."""
    known = references(problem)
    bounds, seed = problem.bounds, problem.sweep_seed
    points = fill_space(problem.natural, count - 2, concentration=1.0, bounds=bounds, tried=known, seed=seed)
    return np.concatenate([known, points])


def at_random(problem: Problem, count: int) -> Points:
    """Natural, uniform, and mixtures drawn evenly from all there are."""
    even = np.full(len(problem.sizes), 1 / len(problem.sizes))
    rng = np.random.default_rng(problem.sweep_seed)
    return np.concatenate([references(problem), dirichlet_pool(even, 4096, 1.0, problem.bounds, rng)[: count - 2]])


def references(problem: Problem) -> Points:
    """The natural and the uniform mixture."""
    return np.stack([problem.shares("natural"), problem.shares("uniform")])


def lowest(domains: Domains, problem: Problem, points: Points) -> Shares:
    """The mixture whose training measured the lowest objective."""
    trials = [domains.train(problem, problem.settings(problem.weights(point))) for point in points]
    return points[int(np.argmin([problem.objective(trial.metrics) for trial in trials]))]


def share(searches: Sequence[Search], way: int) -> float:
    """What was gained over what was possible."""
    return sum(one.gained[way] for one in searches) / sum(one.possible for one in searches)


def table(searches: Sequence[Search]) -> Table:
    """A row for each case."""
    rows = []
    for case in dict.fromkeys(one.case for one in searches):
        mine = [one for one in searches if one.case == case]
        wrong = sum(one.confirmed and one.gained[0] <= 0 for one in mine)
        shares = [f"{share(mine, way):.0%}" for way in range(len(WAYS))] if case.kind != "flat" else ["", "", ""]
        possible = f"{np.median([one.possible for one in mine]):.4f}"
        took = f"{np.mean([one.trainings for one in mine]):.0f}"
        named = f"{sum(one.confirmed for one in mine)} of {len(mine)}"
        rows.append([case.kind, str(case.count), f"{case.noise:g}", f"{case.effort:g}", took, possible, *shares, named])
        rows[-1].append(str(wrong))
    columns = ["domains", "number", "noise, bits/byte", "runs a domain", "trainings", "possible gain (median)"]
    return Table("Share of the possible gain", [*columns, *WAYS, "named better", "wrong"], rows)


def plot(searches: Sequence[Search], kind: str, count: int) -> str:
    """Share of the gain over trainings, for every way and noise."""
    mine = [one for one in searches if (one.case.kind, one.case.count) == (kind, count)]
    lines = []
    for rank, noise in enumerate(sorted({one.case.noise for one in mine})):
        for way, name in enumerate(WAYS):
            points = []
            for effort in sorted({one.case.effort for one in mine}):
                at = [one for one in mine if (one.case.noise, one.case.effort) == (noise, effort)]
                points.append((float(np.mean([one.trainings for one in at])), share(at, way)))
            lines.append(Line(f"{name}, noise {noise:g}", way, points, dashed=rank > 0))
    title = f"Share of the possible gain, {count} domains whose law is not the fitted one"
    return line_plot(lines, title, "trainings", "share of the possible gain", (0.0, 1.0))


def main() -> None:
    """Search, print the table, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=20, help="sets of domains for each case")
    parser.add_argument("--numbers", type=int, nargs="+", default=[3, 5], help="domains of a set")
    parser.add_argument("--noises", type=float, nargs="+", default=[0.002, 0.006], help="of a training, bits per byte")
    parser.add_argument("--kinds", nargs="+", default=["transfer", "exponential", "flat"])
    parser.add_argument("--trees", action="store_true", help="compare boosted trees too")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--plot", type=Path, help="write the plot of the last number of `transfer` domains here, SVG")
    arguments = parser.parse_args()
    cases = [
        Case(kind, count, noise, effort)
        for kind in arguments.kinds
        for count in arguments.numbers
        for noise in arguments.noises
        for effort in (EFFORTS if kind == "transfer" else (4,))
    ]
    searches: list[Search] = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        for case in cases:
            searches += pool.map(partial(search_once, case, trees=arguments.trees), range(arguments.sets))
            print(table(searches).markdown(), end="\n\n", flush=True)
    if arguments.plot:
        arguments.plot.write_text(plot(searches, "transfer", arguments.numbers[-1]))


if __name__ == "__main__":
    main()
