"""Everything that a training run is made of, as one value that the loop and what stands between its steps share."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rayllm.core import storage
from rayllm.core.checkpoint import checkpoint_name
from rayllm.core.log import MetricSink
from rayllm.data.batches import Batch
from rayllm.data.mixing.plan import Plan
from rayllm.optim.config import WSDSchedule
from rayllm.optim.schedules import decay_start
from rayllm.train.adaptation import Adaptation
from rayllm.train.checkpoint import Attachments
from rayllm.train.config import TrainConfig
from rayllm.train.engine import Engine
from rayllm.train.guards.speed import SpeedGuard
from rayllm.train.guards.watchdog import Watchdog
from rayllm.train.metrics import Speedometer
from rayllm.train.objectives import Objective
from rayllm.train.state import RunState
from rayllm.train.update_ratio import UpdateRatios


@dataclass(frozen=True)
class Services:
    """What the loop is handed.

    Attributes:
        sink: Takes records; used on rank 0 only.
        claim: Called on rank 0 before a checkpoint is committed: the records so far become durable, and it is refused
            where a newer start of the run has taken over. Not in the thread of the loop.
        announce: Told the name of each committed checkpoint, on every rank. Not in the thread of the loop.
        stop_requested: Whether somebody asked the run to save and stop; asked on rank 0 only.
        notice: Why the run should save now, once for each reason, else an empty string; asked on rank 0 only.
        validate: Metrics of the current weights; called on every rank.
        sample: Samples of the current weights at a step, as record fields; called on every rank.
        audit: Looks at the first batches of this rank; gives lines for the record.
        rows: Names the rows of the global batch of a step, counted from 1, for messages.
    """

    sink: MetricSink
    claim: Callable[[], None]
    announce: Callable[[str], None]
    stop_requested: Callable[[], bool]
    notice: Callable[[], str]
    validate: Callable[[Engine], dict[str, float]]
    sample: Callable[[Engine, int], list[dict[str, str]]]
    audit: Callable[[Sequence[Batch], int], list[str]]
    rows: Callable[[int], str]


@dataclass(frozen=True)
class Run:
    """Everything a training run is made of.

    Attributes:
        config: Settings of ``train:``.
        engine: Weights, gradients, optimiser.
        plan: Stages of the curriculum; gives the length. Where a mixture moves, the weights are in ``adaptation``.
        batches: Micro-batches of a step for this rank.
        domains: Names behind ``Batch.domain``.
        objective: Loss and count of a batch.
        state: Progress; advanced by the loop.
        checkpoints: URI of the directory of checkpoints.
        attachments: Files that go into every checkpoint.
        speed: Measures tokens per second.
        slowness: Reports drops of it.
        watchdog: Is told what the rank does; ends it where that takes too long.
        update_ratios: Measures how far logged steps move the weights; None: nothing does.
        services: See ``Services``.
        adaptation: Moves the weights of the mixture; None: nothing does.
        resumed_from: URI of this run's checkpoint that this start goes on from; empty where there was none.
    """

    config: TrainConfig
    engine: Engine
    plan: Plan
    batches: Callable[[int], Iterator[Batch]]
    domains: Sequence[str]
    objective: Objective
    state: RunState
    checkpoints: str
    attachments: Attachments
    speed: Speedometer
    slowness: SpeedGuard
    watchdog: Watchdog
    update_ratios: UpdateRatios | None
    services: Services
    adaptation: Adaptation | None = None
    resumed_from: str = ""

    @property
    def checkpoint(self) -> str:
        """URI of the checkpoint of the current step, as this start names it."""
        return storage.join(self.checkpoints, checkpoint_name(self.state.step, self.state.attempt))

    @property
    def stable_steps(self) -> int | None:
        """Steps before the learning rate decays, of a schedule that is stable until then."""
        schedule = self.config.schedule
        return decay_start(schedule, self.plan.total_steps) if isinstance(schedule, WSDSchedule) else None

    @property
    def moves(self) -> int:
        """How often the weights of the mixture have moved so far."""
        return len(self.state.mixture.get("moves", []))

    def record(self, kind: str, fields: dict[str, Any]) -> None:
        """Write a record of the current step, on rank 0."""
        if self.engine.rank == 0:
            head = {"kind": kind, "step": self.state.step, "attempt": self.state.attempt, "time": round(time.time(), 3)}
            self.services.sink.write(head | fields)
