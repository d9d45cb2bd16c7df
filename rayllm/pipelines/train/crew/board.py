"""What workers have to say to the driver: records, where they sit, how it ended. One board for each start of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    """

    records: tuple[dict[str, Any], ...] = ()
    outcome: str = ""
    error: RayllmError | None = None
    seats: tuple[Seat, ...] = ()
    reports: tuple[Report, ...] = ()


class Board:
    """Carries what workers say to the driver."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []
        self._outcome = ""
        self._error: RayllmError | None = None
        self._seats: list[Seat] = []
        self._reports: list[Report] = []

    def push(self, record: dict[str, Any]) -> None:
        """Add a record for the console."""
        self._records.append(record)

    def sit(self, seat: Seat) -> None:
        """Note where a worker sits."""
        self._seats.append(seat)

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
        return Said(tuple(records), self._outcome, self._error, tuple(self._seats), tuple(self._reports))


class BoardSink:
    """Sends records to the actor that has the board, without waiting."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def write(self, record: Mapping[str, Value]) -> None:
        """Send one record."""
        self._board.push.remote(dict(record))

    def close(self) -> None:
        """Nothing is pending."""
