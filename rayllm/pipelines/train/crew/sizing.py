"""How many workers train, and with what: pure functions of the settings and of the nodes that there are."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rayllm.core.errors import SetupError
from rayllm.pipelines.nodes import Node, room
from rayllm.train.config import WorkersConfig


@dataclass(frozen=True)
class Crew:
    """The workers of a run: how many, and the resources of each."""

    count: int
    cpus: float
    gpus: int

    @property
    def threads(self) -> int:
        """Threads that torch may use in each worker."""
        return max(1, int(self.cpus))

    @property
    def resources(self) -> dict[str, float]:
        """What Ray sets aside for each worker."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass(frozen=True)
class Seat:
    """Where a worker sits: its rank, node and process."""

    rank: int
    node: str
    host: str
    pid: int

    def __str__(self) -> str:
        return f"rank {self.rank} (process {self.pid} on {self.host})"


def size_crew(config: WorkersConfig, nodes: Sequence[Node]) -> Crew:
    """Choose the workers at the start of a run: by default one per GPU, else two that share the CPUs.

    Raises:
        SetupError: If the nodes have no room for the fewest that the settings allow.
    """
    all_cpus, all_gpus = sum(node.cpus for node in nodes), int(sum(node.gpus for node in nodes))
    low, high = config.bounds(all_gpus or min(2, max(1, int(all_cpus))))
    gpus = 1 if all_gpus else 0
    cpus = config.cpus or _share(nodes, high, gpus)
    crew = resize(Crew(0, cpus, gpus), low, high, room(nodes, cpus, gpus))
    if crew is None:
        raise no_room(Crew(low, cpus, gpus), nodes)
    return crew


def _share(nodes: Sequence[Node], count: int, gpus: int) -> float:
    """The most whole CPUs for each worker with which all of them fit; 1 where they do not fit at all."""
    most = int(max((node.cpus for node in nodes), default=1.0))
    return float(max((cpus for cpus in range(1, most + 1) if room(nodes, cpus, gpus) >= count), default=1))


def resize(crew: Crew, low: int, high: int, places: int) -> Crew | None:
    """The same workers in another number: as many as there are places; None below the fewest."""
    count = min(high, places)
    return dataclasses.replace(crew, count=count) if count >= low else None


def no_room(least: Crew, nodes: Sequence[Node]) -> SetupError:
    """The error for nodes without room for the fewest workers: what lacks, in all or on each node."""
    have = {"CPU": sum(node.cpus for node in nodes), "GPU": sum(node.gpus for node in nodes)}
    need = {name: amount * least.count for name, amount in least.resources.items()}
    lacking = [f"{need[name]:g} {name} (there are {have[name]:g})" for name in need if need[name] > have[name]]
    largest = max((node.cpus for node in nodes), default=0.0)
    each = " and ".join(f"{amount:g} {name}" for name, amount in least.resources.items())
    why = "it needs " + ", ".join(lacking) if lacking else f"each needs {each}; the largest node has {largest:g} CPU"
    return SetupError(
        f"training with {least.count} worker{'s' if least.count > 1 else ''} needs more than the cluster has",
        why=why,
        fix="set train.workers.count or train.workers.cpus lower, or add nodes",
    )


def lost_seats(seats: Iterable[Seat], nodes: Iterable[Node]) -> list[Seat]:
    """The workers whose node is not among those that are left."""
    left = {node.id for node in nodes}
    return [seat for seat in seats if seat.node not in left]


def leaving_hosts(seats: Iterable[Seat], nodes: Iterable[Node]) -> list[str]:
    """Hosts of workers whose node is about to be taken away."""
    leaving = {node.id for node in nodes if node.leaving}
    return sorted({seat.host for seat in seats if seat.node in leaving})


def describe_start(attempt: int, before: Crew, now: Crew, why: str) -> str:
    """A start of a run for the record: which, with how many workers, and why there is another one."""
    plural = "s" if now.count != 1 else ""
    was = f" (was {before.count})" if now.count != before.count else ""
    return f"attempt {attempt}: {now.count} worker{plural}{was}: {why}"
