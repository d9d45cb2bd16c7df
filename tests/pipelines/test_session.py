"""A session of training, whatever ends it."""

import threading
from pathlib import Path

import pytest
from small_session import all_records, make_config, records

from rayllm.core import faults
from rayllm.core.artifact import Artifact
from rayllm.core.errors import RunFailed
from rayllm.data.shards.packed import PackedData
from rayllm.model.flops import training_flops_per_token
from rayllm.pipelines.train import Config, session
from rayllm.pipelines.train.job import Job
from rayllm.pipelines.train.session import NullSink, Outlets, run_alone
from rayllm.train import loop
from rayllm.train.guards.speed import SpeedGuard
from rayllm.train.objectives import supervised_tokens


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


def test_mfu_and_the_watched_speed_are_of_whole_rows_as_long_as_the_stage_s(
    parent_data: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is masked is computed all the same."""
    watched: list[float] = []
    monkeypatch.setattr(session, "peak_flops", lambda _: 1e12)
    monkeypatch.setattr(SpeedGuard, "look", lambda _, tokens_per_s: watched.append(tokens_per_s))
    monkeypatch.setattr(loop, "supervised_tokens", lambda batch: supervised_tokens(batch) // 4)
    tree = make_config(tmp_path, max_steps=6, engine={"kind": "torch"}).model_dump(mode="json")
    config = Config.model_validate(tree | {"curriculum": [{"frac": 0.5, "seq_len": 32}, {"frac": 0.5}]})
    run_alone(Job(config, parent_data.uri, str(tmp_path / "run")), Outlets(NullSink()))
    found = list(records(str(tmp_path / "run"), "train").values())
    assert [record["seq_len"] for record in found] == [32] * 3 + [64] * 3
    model = config.model.with_vocab(PackedData.open(parent_data.uri).vocab_size)
    for record, tokens_per_s in zip(found, watched, strict=True):
        assert tokens_per_s == pytest.approx(1024 / record["step_s"])
        assert record["mfu"] * 1e12 == pytest.approx(tokens_per_s * training_flops_per_token(model, record["seq_len"]))
        assert record["tokens_per_s"] < tokens_per_s / 3
