"""How many trials fit: from what the nodes have and what a trial needs; no setting can make a sweep wait for ever."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayllm.core.errors import SetupError
from rayllm.pipelines.nodes import Node
from rayllm.tune.config import TuneConfig

#: Resources closer than this are equal: fractions of a CPU are added up.
EPSILON = 1e-6


@dataclass(frozen=True)
class Needs:
    """What each worker of a trial holds, and how many workers it has."""

    cpus: float
    gpus: float
    workers: int

    @property
    def devices(self) -> float:
        """GPUs that a trial holds, or CPUs where it holds none; what device-hours are counted in."""
        return self.workers * (self.gpus or self.cpus)

    def places(self, cpus: float, gpus: float) -> int:
        """How many workers fit into so much of one node; a part of a GPU is never spread over two."""
        by_cpus = int(cpus / self.cpus + EPSILON)
        if not self.gpus:
            return by_cpus
        by_gpus = gpus / self.gpus if self.gpus >= 1 else int(gpus + EPSILON) * int(1 / self.gpus + EPSILON)
        return min(by_cpus, int(by_gpus + EPSILON))

    def trials(self, free: Sequence[tuple[float, float]]) -> int:
        """How many trials fit into the (CPUs, GPUs) of some nodes; a worker is never spread over two."""
        return sum(self.places(cpus, gpus) for cpus, gpus in free) // self.workers


def needs_of(settings: TuneConfig, nodes: Sequence[Node]) -> Needs:
    """What a trial asks for.

    Raises:
        SetupError: If the nodes have no room for one trial, for which Ray would wait for ever, if workers of one trial
            would have to share a GPU, or if a trial would hold GPUs and a part of one.
    """
    most = {"CPU": max(node.cpus for node in nodes), "GPU": max(node.gpus for node in nodes)}
    gpus = settings.gpus_per_trial
    if gpus is None:
        gpus = float(settings.workers) if most["GPU"] > 0 else 0.0
    needs = Needs(settings.cpus_per_trial / settings.workers, gpus / settings.workers, settings.workers)
    if settings.workers > 1 and needs.gpus % 1:
        raise SetupError(
            "the workers of a trial cannot share a GPU",
            where="tune.gpus_per_trial",
            why=f"{gpus:g} GPU for {settings.workers} workers",
            fix=f"set it to {settings.workers}, or to 0, or use one worker",
        )
    if gpus > 1 and gpus % 1:
        raise SetupError(
            "a trial cannot hold several GPUs and a part of one",
            where="tune.gpus_per_trial",
            why=f"it is {gpus:g}; Ray gives a part of one GPU, or whole ones",
            fix=f"set it to {math.ceil(gpus)}, or to 1 or less",
        )
    if needs.trials([(node.cpus, node.gpus) for node in nodes]) < 1:
        wanted = f"{settings.cpus_per_trial:g} CPU and {gpus:g} GPU"
        shared = f" for {needs.workers} workers" if needs.workers > 1 else ""
        raise SetupError(
            "no node can hold a trial of the sweep" if needs.workers == 1 else "the nodes cannot hold a trial",
            why=f"a trial wants {wanted}{shared}; the largest node has {most['CPU']:g} CPU and {most['GPU']:g} GPU",
            fix="lower tune.cpus_per_trial, tune.gpus_per_trial or tune.workers",
        )
    return needs


def lacking(needs: Needs, free: Mapping[str, float], total: Mapping[str, float]) -> str:
    """What a trial waits for, in words: each resource that is short, how much is free, and of how much."""
    wanted = {"CPU": needs.cpus * needs.workers, "GPU": needs.gpus * needs.workers}
    short = [
        f"{amount:g} {name} ({free.get(name, 0.0):g} of {total.get(name, 0.0):g} free)"
        for name, amount in wanted.items()
        if amount > free.get(name, 0.0) + EPSILON
    ]
    if short:
        return "it wants " + " and ".join(short)
    return "there is enough in all, but not on one node"
