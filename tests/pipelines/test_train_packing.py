"""Training on best-fit rows: told in the records, stopped and resumed bit for bit, refused with another index."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from packing_fixture import make_packed
from tiny_run import TRAIN

from rayllm.core import storage
from rayllm.core.errors import DataError
from rayllm.data.mixing.plan import Plan
from rayllm.data.packing import row_index
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.job import Job
from rayllm.pipelines.train.session import NullSink, Outlets, run_session
from rayllm.train.config import EngineConfig
from rayllm.train.state import RunState


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> str:
    return make_packed(tmp_path_factory.mktemp("packed"), count=80).uri


def make_config(**train: Any) -> Config:
    model = {"dim": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 64, "max_seq_len": 64}
    curriculum = [{"frac": 0.5, "seq_len": 32}, {"frac": 0.5}]
    settings = TRAIN | {"max_steps": 6, "packing": "best_fit", "samples": {"max_new_tokens": 1}} | train
    return Config.model_validate({"name": "t", "model": model, "curriculum": curriculum, "train": settings})


def train(packed: str, directory: Path, stop_after: int | None = None) -> tuple[bool, RunState]:
    job = Job(make_config(), packed, str(directory))
    storage.make_dirs(job.checkpoints)
    asked: list[None] = []

    def stop_requested() -> bool:
        asked.append(None)
        return len(asked) == stop_after

    outlets = Outlets(NullSink(), stop_requested=stop_requested)
    return run_session(job, outlets, EngineConfig(kind="torch"), torch.device("cpu"))


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_stopping_and_resuming_is_a_straight_run_bit_for_bit(packed, tmp_path):
    finished, straight = train(packed, tmp_path / "straight")
    assert finished
    stopped, first = train(packed, tmp_path / "stopped", stop_after=4)
    assert not stopped
    assert first.step == 4
    finished, resumed = train(packed, tmp_path / "stopped")
    assert finished
    assert (resumed.losses, resumed.domain_tokens) == (straight.losses, straight.domain_tokens)
    assert resumed.losses[-1] < resumed.losses[0]


def test_the_records_tell_what_packing_costs_and_the_plan_names_its_indexes(packed, tmp_path):
    train(packed, tmp_path)
    messages = [record["message"] for record in records(tmp_path) if record["kind"] == "event"]
    told = [message for message in messages if message.startswith("best_fit packing of ")]
    assert len(told) == 4  # two domains at two lengths
    assert all("documents cut" in message and "padding" in message for message in told)
    plan = Plan.from_json((tmp_path / "plan.json").read_text())
    assert plan.packing == "best_fit"
    assert [index.seq_len for index in plan.indexes] == [32, 64]
    assert {len(sha256) for index in plan.indexes for sha256 in index.sha256} == {64}


def test_resuming_with_another_index_stops_before_the_first_step(packed, tmp_path, monkeypatch):
    train(packed, tmp_path, stop_after=2)
    before = (tmp_path / "metrics.jsonl").read_text()
    monkeypatch.setattr(row_index, "VERSION", row_index.VERSION + 1)
    with pytest.raises(DataError, match="on other data, or in another order") as caught:
        train(packed, tmp_path)
    assert "indexes of its plan" in caught.value.why
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_best_fit_without_the_document_mask_is_refused():
    with pytest.raises(ValueError, match=r"keep `train\.document_mask` true"):
        make_config(document_mask=False)
