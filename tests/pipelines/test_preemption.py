"""Ray's notice that a node is to be taken away, as a worker reads it."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
from ray.train.v2._internal.execution.context import TrainContext
from ray.train.v2._internal.execution.preemption import PreemptionContext

from rayllm.pipelines.train import preemption
from rayllm.pipelines.train.preemption import PreemptionNotice

NOON_MS = 1_800_014_400_000  # 2027-01-15 12:00:00 UTC


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> PreemptionContext:
    """What Ray's watcher writes to on a worker."""
    told = PreemptionContext()
    monkeypatch.setattr(preemption, "get_train_context", lambda: SimpleNamespace(preemption_context=told))
    return told


def notice_of(nodes: dict[str, list[int]], deadline_ms: int | None = None) -> Any:
    return ray.train.PreemptionInfo(deadline_ms=deadline_ms, preempted_node_to_ranks=nodes)


def test_each_notice_is_told_once(context: PreemptionContext) -> None:
    notice = PreemptionNotice()
    assert notice() == ""
    context.preemption_info = notice_of({"ab12cd34ef56": [1]}, NOON_MS)
    assert notice() == "node ab12cd34 with rank 1 is to be taken away at 12:00:00 UTC"
    assert notice() == ""
    context.preemption_info = notice_of({"ab12cd34ef56": [1], "0123456789": [0, 2]})
    assert notice() == "node 01234567, ab12cd34 with rank 0, 1, 2 is to be taken away"
    assert notice() == ""


def test_ray_keeps_the_notice_where_it_is_looked_for() -> None:
    assert "preemption_context" in TrainContext.__dataclass_fields__
    assert PreemptionContext().preemption_info is None
