"""A session of training, whatever ends it."""

import threading
from pathlib import Path

import pytest
from small_session import make_config

from rayllm.core.artifact import Artifact
from rayllm.core.errors import RunFailed
from rayllm.pipelines.train import session
from rayllm.pipelines.train.job import Job
from rayllm.pipelines.train.session import NullSink, Outlets, run_alone


def test_a_session_that_fails_before_its_first_step_leaves_no_watchdog(
    parent_data: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial's process takes the next trial, and a watchdog without beats would end it."""
    found: list[threading.Thread] = []

    def out_of_memory(*_: object) -> None:
        found.extend(thread for thread in threading.enumerate() if thread.name == "watchdog")
        raise MemoryError("no room for the engine")

    monkeypatch.setattr(session, "build_engine", out_of_memory)
    job = Job(make_config(tmp_path, engine={"kind": "torch"}), parent_data.uri, str(tmp_path / "run"))
    with pytest.raises(RunFailed, match="out of memory"):
        run_alone(job, Outlets(NullSink()))
    assert found
    for thread in found:
        thread.join(5)
        assert not thread.is_alive()
