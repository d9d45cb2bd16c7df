"""``micro_batch_size: auto``: chosen from memory, said, remembered, and without a mark on what is learnt."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packing_fixture import make_packed
from ranks import run_ranks
from small_session import all_records, forked_run, make_config, records

from rayllm.pipelines.train import micro_batches
from rayllm.train.config import EngineConfig


@pytest.fixture(scope="module")
def packed_uri(tmp_path_factory) -> str:
    return make_packed(tmp_path_factory.mktemp("packed"), count=80).uri


def environment(directory: Path) -> dict:
    return json.loads((directory / "environment.json").read_text())


def test_what_auto_chooses_is_said_recorded_and_changes_no_loss(tmp_path, packed_uri):
    """The losses of micro-batches are summed over the global batch, so their size is only a matter of rounding."""
    for name, rows in (("auto", "auto"), ("three", 3)):
        config = make_config(tmp_path, micro_batch_size=rows, engine={"kind": "torch"})
        run_ranks(forked_run, 2, config, packed_uri, str(tmp_path / name))
    auto, three = (records(str(tmp_path / name), "train") for name in ("auto", "three"))
    assert [auto[step]["loss"] for step in auto] == pytest.approx([three[step]["loss"] for step in three], abs=1e-5)
    said = [record["message"] for record in all_records(str(tmp_path / "auto"), "event")]
    assert any(message.startswith("micro-batches of 8 rows of 64, chosen for") for message in said)
    assert environment(tmp_path / "auto")["micro_batch_rows"] == {"64": 8}, "all rows of a rank"
    assert not any("micro-batches" in record["message"] for record in all_records(str(tmp_path / "three"), "event"))


def few_bytes(config, packed_uri: str, directory: str, free: int) -> dict:
    micro_batches._free_bytes = lambda *_: free
    return forked_run(config, packed_uri, directory)


def test_a_run_goes_on_with_the_rows_that_it_began_with(tmp_path, packed_uri):
    """Else the machine's memory on the day of the resume would decide about the bits of the rest."""
    directory = tmp_path / "run"
    engine = {"kind": "torch"}
    run_ranks(
        few_bytes, 1, make_config(tmp_path, micro_batch_size="auto", engine=engine), packed_uri, str(directory), 1
    )
    assert environment(directory)["micro_batch_rows"] == {"64": 1}
    run_ranks(
        few_bytes, 1, make_config(tmp_path, micro_batch_size="auto", engine=engine), packed_uri, str(directory), 10**12
    )
    assert environment(directory)["micro_batch_rows"] == {"64": 1}
    said = [record["message"] for record in all_records(str(directory), "event")]
    assert any(message.startswith("micro-batches of 1 row of 64, as before") for message in said)


def test_a_fork_with_a_row_length_that_nobody_remembers_chooses_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(micro_batches, "rows_by_length", lambda *_: {32: 8})
    monkeypatch.setattr(micro_batches, "estimate", lambda _: SimpleNamespace(total=1))
    compute: Any = SimpleNamespace(device=torch.device("cpu"), precision="fp32")
    config = make_config(tmp_path, micro_batch_size="auto", seq_len=32)

    def chosen(rows: dict[str, int]) -> micro_batches.MicroBatches:
        remembered = {"world_size": 1, "rows": rows}
        return micro_batches.choose_micro_batches(
            config, config.model.with_vocab(512), EngineConfig(kind="torch"), compute, remembered
        )

    known, unknown = chosen({"32": 3, "64": 2}), chosen({"64": 2})
    assert known.rows[32] == 3
    assert known.why.startswith("micro-batches of 3 rows of 32, 2 rows of 64, as before")
    assert (unknown.rows, unknown.memory["rows"]) == ({32: 8}, {"32": 8})
    assert unknown.why.startswith("micro-batches of 8 rows of 32, chosen for")
