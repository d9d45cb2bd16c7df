"""What workers have to say to the driver: records, where they sit, how it ended. One actor for a run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayllm.core.errors import RayllmError
from rayllm.core.log import Value
from rayllm.pipelines.train.crew.failures import Report
from rayllm.pipelines.train.crew.sizing import Seat


@dataclass(frozen=True)
class Said:
    """What the board holds; records only those since the last look.

    Attributes:
        records: For the console.
        outcome: ``done`` or ``stopped`` once the run is at its end.
        error: An error that a restart cannot mend.
        seats: Where the workers sit.
        reports: Exceptions that ended ranks.
        groups: What Ray has set aside for the workers.
    """

    records: tuple[dict[str, Any], ...] = ()
    outcome: str = ""
    error: RayllmError | None = None
    seats: tuple[Seat, ...] = ()
    reports: tuple[Report, ...] = ()
    groups: tuple[PlacementGroup, ...] = ()


@ray.remote(num_cpus=0)
class Board:
    """Carries what workers say to the driver."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what was said in an earlier start."""
        self._records: list[dict[str, Any]] = []
        self._outcome = ""
        self._error: RayllmError | None = None
        self._seats: list[Seat] = []
        self._reports: list[Report] = []
        self._groups: list[PlacementGroup] = []

    def push(self, record: dict[str, Any]) -> None:
        """Add a record for the console."""
        self._records.append(record)

    def sit(self, seat: Seat, group: PlacementGroup | None) -> None:
        """Note where a worker sits, and what is set aside for it and its fellows."""
        self._seats.append(seat)
        if group is not None and group not in self._groups:
            self._groups.append(group)

    def finish(self, outcome: str) -> None:
        """Note how the run ended: ``done`` or ``stopped``."""
        self._outcome = outcome

    def report(self, report: Report, error: RayllmError | None) -> None:
        """Note the exception that ended a rank, and the error itself where a restart cannot mend it."""
        self._reports.append(report)
        self._error = self._error or error

    def look(self) -> Said:
        """All that was said; records only once."""
        records, self._records = self._records, []
        return Said(
            tuple(records),
            self._outcome,
            self._error,
            tuple(self._seats),
            tuple(self._reports),
            tuple(self._groups),
        )


class BoardSink:
    """Sends records to the board without waiting."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def write(self, record: Mapping[str, Value]) -> None:
        """Send one record."""
        self._board.push.remote(dict(record))

    def close(self) -> None:
        """Nothing is pending."""


def release(groups: Iterable[PlacementGroup]) -> None:
    """Give back what was set aside for workers that are gone.

    Ray Train does this itself, unless its controller was killed: what cleans up after that needs Ray's dashboard.
    """
    for group in groups:
        remove_placement_group(group)


def open_board() -> Any:
    """A board on the driver's own node, so that it outlives every node but that."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Board.options(scheduling_strategy=here).remote()
