"""Results of trials, and the ledger that survives interruptions.

In: one ``TrialResult`` at a time. Out: ``trials.jsonl``, from which an interrupted sweep goes on. ``ranking`` orders
them, ``tables`` shows them.
"""

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from rayllm.core import storage
from rayllm.core.artifact import content_hash
from rayllm.core.errors import ArtifactDamaged
from rayllm.tune.space import Settings

HOUR_S = 3600.0
#: The setting in which replicates differ: the run's own seed.
SEED = "seed"


class Point(BaseModel):
    """One validation of a trial.

    Attributes:
        step: Optimizer steps done.
        tokens: Tokens read.
        metrics: Such as ``mean_bits_per_byte``, ``bits_per_byte/<domain>``, ``loss/<domain>``; finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    step: int
    tokens: int
    metrics: dict[str, float]


class TrialResult(BaseModel):
    """How a trial ended.

    Attributes:
        trial: Number of the trial.
        key: Hash of all that shapes its result; another key is another trial.
        settings: What made it differ from the run file.
        group: Hash of the settings without the seed; replicates share it.
        seed: Of the training.
        curve: Its validations, in order.
        metrics: Of its last validation; empty if it failed before one.
        status: ``stopped`` if the scheduler or the budget ended it early: its metrics are those at that point.
        tokens: Read in all.
        wall_s: Seconds it took.
        start_s: Seconds from its turn to its first step.
        restarts_s: The same of its further turns, summed: it waited at a rung, was lost, or the sweep was interrupted.
        cpus: CPUs it held.
        gpus: GPUs it held.
        reused: Whether a warm process ran it.
        parent: URI of the checkpoint it was forked from; empty if it began anew.
        error: Why it failed; empty if it did not.
        cut: Whether it may go on: it waits to, or was stopped because the budget was spent, and goes on when that is
            raised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    trial: int
    key: str
    settings: Settings
    group: str
    seed: int
    curve: list[Point] = []
    metrics: dict[str, float] = {}
    status: Literal["finished", "stopped", "failed"]
    tokens: int = 0
    wall_s: float = 0.0
    start_s: float = 0.0
    restarts_s: float = 0.0
    cpus: float = 1.0
    gpus: float = 0.0
    reused: bool = False
    parent: str = ""
    error: str = ""
    cut: bool = False

    @property
    def device_s(self) -> float:
        """Seconds times GPUs held; times CPUs where it held no GPU."""
        return self.wall_s * (self.gpus or self.cpus)

    @property
    def starts_s(self) -> float:
        """Seconds of all its starts: those among ``wall_s`` in which it did not train."""
        return self.start_s + self.restarts_s

    def price(self, per_hour: float) -> float:
        """What it cost, at a price of a device for an hour."""
        return self.device_s / HOUR_S * per_hour


def group_of(settings: Settings) -> str:
    """What replicates have in common: the hash of the settings without the seed."""
    return content_hash({path: value for path, value in settings.items() if path != SEED})[:12]


class Ledger:
    """The ended trials of a sweep, in a JSONL file that is replaced as a whole, so that no line is ever torn.

    Args:
        uri: The file; read if it exists.

    Raises:
        ArtifactDamaged: If it cannot be read.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self.results: list[TrialResult] = []
        text = storage.read_text(uri) if storage.exists(uri) else ""
        for number, line in enumerate(text.splitlines(), 1):
            try:
                self.results.append(TrialResult.model_validate_json(line))
            except ValidationError as error:
                raise ArtifactDamaged(
                    "the ledger of the sweep cannot be read",
                    where=f"{uri}:{number}",
                    why=str(error).splitlines()[0],
                    fix="remove that line to run its trial again",
                ) from error

    def finished(self) -> dict[str, TrialResult]:
        """Trials that came to their end or were stopped by the scheduler, by key: these never run again."""
        return {result.key: result for result in self.results if result.status != "failed" and not result.cut}

    def append(self, result: TrialResult) -> None:
        """Add a result, safe on the disk when this returns; it holds what the budget had cut off of the same trial."""
        self.results = [one for one in self.results if not (one.cut and one.key == result.key)] + [result]
        storage.write_text(self._uri, "".join(f"{line.model_dump_json()}\n" for line in self.results))


def finite(metrics: dict[str, JsonValue]) -> dict[str, float]:
    """The finite numbers among some metrics."""
    numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}
