"""Metric files look the same wherever the storage is, and nothing that a checkpoint stands on is missing there."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rayllm.core import storage
from rayllm.core.errors import SetupError
from rayllm.pipelines.train import worker
from rayllm.pipelines.train.metric_files import METRICS, open_metric_files


@pytest.fixture(params=["local", "remote"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}-{id(request)}/train"


def steps(directory: str) -> list[int]:
    return [json.loads(line)["step"] for line in storage.read_text(storage.join(directory, METRICS)).splitlines()]


def test_records_are_durable_after_a_flush_and_attempts_follow_each_other(directory: str) -> None:
    killed = open_metric_files(directory, tensorboard=False)
    killed.write({"kind": "train", "step": 1, "loss": 2.0})
    killed.flush()
    assert steps(directory) == [1]
    again = open_metric_files(directory, tensorboard=False)
    again.write({"kind": "train", "step": 2, "loss": 1.0})
    again.write({"kind": "validation", "step": 2, "loss/a": 1.0})
    assert steps(directory) == [1, 2, 2]
    again.write({"kind": "train", "step": 3, "loss": 0.5})
    again.close()
    assert steps(directory) == [1, 2, 2, 3]


def test_tensorboard_files_lie_beside_the_metrics(directory: str) -> None:
    files = open_metric_files(directory, tensorboard=True)
    files.write({"kind": "train", "step": 1, "loss": 2.0})
    files.close()
    found = [path for path in storage.list_files(directory) if path.startswith("tensorboard/")]
    assert len(found) == 1
    assert storage.size(storage.join(directory, found[0])) > 0


def test_a_wish_to_stop_is_seen_after_the_store_has_failed_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Callable[[], bool]] = [_fail, lambda: True]
    monkeypatch.setattr(worker, "STOP_POLL_S", 0.0)
    monkeypatch.setattr(worker.storage, "exists", lambda _: looks.pop(0)())
    stop = worker.StopFile("s3://bucket/stop-requested")
    stop.thread.join(5)
    assert stop()


def _fail() -> bool:
    raise SetupError("the storage cannot be reached")
