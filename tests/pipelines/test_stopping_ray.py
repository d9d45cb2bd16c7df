"""Ray is stopped when the work is over, but for a cluster that is gone."""

from types import SimpleNamespace

import pytest

from rayllm.core.errors import ClusterLost, RunFailed
from rayllm.pipelines import ray_runtime
from rayllm.pipelines.ray_runtime import stopping_ray


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done at the end."""
    calls: list[str] = []
    monkeypatch.setattr(ray_runtime, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(ray_runtime, "atexit", SimpleNamespace(unregister=lambda _: calls.append("left alone")))
    return calls


def test_ray_is_stopped_after_work_and_after_failures(done: list[str]) -> None:
    with stopping_ray():
        pass
    with pytest.raises(RunFailed), stopping_ray():
        raise RunFailed("no")
    with pytest.raises(KeyboardInterrupt), stopping_ray():
        raise KeyboardInterrupt
    assert done == ["shutdown"] * 3


def test_a_cluster_that_is_gone_is_not_asked_to_stop(done: list[str]) -> None:
    with pytest.raises(ClusterLost), stopping_ray():
        raise ClusterLost("gone")
    assert done == ["left alone"]
