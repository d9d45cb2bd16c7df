"""A session whose steps are timed from inside: what the loop adds to forward, backward and optimiser.

Records go where a run under Ray sends them: to the run's files, to the driver's board and to the gauges.
"""

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from rayllm.core import storage
from rayllm.core.config import load_config
from rayllm.core.log import BesideSink, SinkGroup
from rayllm.pipelines import ray_runtime, train
from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.train import session
from rayllm.pipelines.train.job import Job
from rayllm.train import collective, loop
from rayllm.train.run import Run
from rayllm.train.update_ratio import UpdateRatios

WARM_UP_STEPS = 5


@dataclass(frozen=True)
class Loop:
    """Medians over the steps, in seconds.

    Attributes:
        step_s: All of a step.
        outside_s: The part of it that is neither forward, backward nor optimiser.
        waiting_s: The part of that which is spent in collectives of the loop, most of it waiting for slower ranks.
        record_s: One ``train`` record, from the weights before its step, whose move is a part of it, to the last sink.
        record_waiting_s: The part of that in its collective; who waits there for a slower rank need not in the next.
    """

    step_s: float
    outside_s: float
    waiting_s: float
    record_s: float
    record_waiting_s: float


class Clock:
    """Adds up the time of calls by what they are for, and remembers the sums at the end of every step."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._marks: list[dict[str, float]] = []
        self._open: Counter[str] = Counter()

    def timed(self, kind: str, call: Callable[..., Any], *, ends_step: bool = False) -> Callable[..., Any]:
        """The same call, its time counted, unless it is a part of another of its kind; and as a part of others."""

        def timed_call(*args: Any, **kwargs: Any) -> Any:
            self._open[kind] += 1
            start = time.perf_counter()
            result = call(*args, **kwargs)
            end = time.perf_counter()
            self._open[kind] -= 1
            if not self._open[kind]:
                self._seconds[kind] += end - start
                for whole in +self._open:
                    self._seconds[f"{kind} in {whole}"] += end - start
            if ends_step:
                self._marks.append({"all": end, **self._seconds})
            return result

        return timed_call

    def read(self) -> Loop:
        """The medians, the first steps left out."""
        marks = self._marks[WARM_UP_STEPS:]
        kinds = marks[-1].keys()
        steps = [{kind: b.get(kind, 0.0) - a.get(kind, 0.0) for kind in kinds} for a, b in pairwise(marks)]
        return Loop(
            step_s=statistics.median(step["all"] for step in steps),
            outside_s=statistics.median(step["all"] - step["engine"] for step in steps),
            waiting_s=statistics.median(step["collective"] for step in steps),
            record_s=statistics.median(step["record"] for step in steps),
            record_waiting_s=statistics.median(step.get("collective in record", 0.0) for step in steps),
        )


def clock_loop(config_file: str, packed: str, directory: str) -> Loop:
    """Train a whole run on this rank of a group and time its steps; the first rank starts a Ray to send records to."""
    config = load_config(config_file, [], train.Config)
    job = Job(config, packed, directory)
    storage.make_dirs(job.checkpoints)
    outlets = session.Outlets(sink=_ray_sinks(config) if collective.rank() == 0 else SinkGroup([]))
    clock = Clock()

    def train_timed(run: Run) -> bool:
        engine: Any = run.engine
        engine.token_losses = clock.timed("engine", engine.token_losses)
        engine.backward = clock.timed("engine", engine.backward)
        engine.step = clock.timed("engine", engine.step, ends_step=True)
        return loop.train(run)

    begin_sum, since = collective.begin_sum, UpdateRatios.since

    def begin_timed_sum(values: Tensor) -> Callable[[], Any]:
        return clock.timed("collective", clock.timed("collective", begin_sum)(values))

    def timed_since(ratios: UpdateRatios, before: Tensor) -> Callable[[], Any]:
        return clock.timed("record", clock.timed("record", since)(ratios, before))

    with (
        mock.patch.object(session, "train", train_timed),
        mock.patch.object(collective, "begin_sum", begin_timed_sum),
        mock.patch.object(UpdateRatios, "look", clock.timed("record", UpdateRatios.look)),
        mock.patch.object(UpdateRatios, "since", timed_since),
        mock.patch.object(loop, "_log_step", clock.timed("record", loop._log_step)),
        mock.patch.object(collective, "sum_over_ranks", clock.timed("collective", collective.sum_over_ranks)),
    ):
        session.run_session(job, outlets, config.train.engine, torch.device("cpu"))
    ray_runtime.shutdown()
    return clock.read()


def _ray_sinks(config: train.Config) -> BesideSink:
    ray_runtime.ensure_ray(RayConfig(num_cpus=1, object_store_bytes=100_000_000))
    import ray

    from rayllm.pipelines.train.crew.board import Board, BoardSink
    from rayllm.pipelines.train.gauges import GaugeSink

    board = ray.remote(num_cpus=0)(Board).remote()
    return BesideSink(SinkGroup([BoardSink(board), GaugeSink(config.name)]))
