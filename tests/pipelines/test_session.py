"""A session of training, whatever ends it."""

import threading
from pathlib import Path

import pytest
from small_session import all_records, make_config, records

from rayllm.core import faults
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


def test_what_is_watched_while_a_session_trains_is_told(
    parent_data: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A speed that drops, and how far the logged steps move the weights."""
    faults._specs.cache_clear()
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", ",".join(f"step:{step}=slow" for step in range(21, 29)))
    quiet = {"validation": {"every_steps": 100, "max_tokens": 256}, "samples": {"every_steps": 0}}
    quiet |= {"guards": {"slow_factor": 0.8}}
    few = {"max_steps": 28, "global_batch_tokens": 128, "micro_batch_size": 2, "engine": {"kind": "torch"}}
    run_alone(Job(make_config(tmp_path, **few, **quiet), parent_data.uri, str(tmp_path / "run")), Outlets(NullSink()))
    faults._specs.cache_clear()
    told = [record["message"] for record in all_records(str(tmp_path / "run"), "event")]
    assert [text for text in told if text.startswith("training has become slow: ")]
    moved = records(str(tmp_path / "run"), "train")[28]
    ratios = {name: moved[name] for name in moved if name.startswith("update_ratio/")}
    assert {"update_ratio/matrices", "update_ratio/vectors"} <= ratios.keys()
    assert all(ratio > 0 for ratio in ratios.values())
