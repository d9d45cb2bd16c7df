"""``rayllm plan`` before there is any data: complete, for people and for programs."""

import json
from pathlib import Path

import pytest

from rayllm import cli
from rayllm.model.flops import count_parameters
from rayllm.pipelines.plan.forecast import PROBED_MICRO_BATCHES
from rayllm.pipelines.run_config import load_run

RUN = str(Path(__file__).parents[2] / "configs" / "run" / "quickstart.yaml")


def plan(capsys, *arguments: str) -> dict:
    assert cli.main(["plan", RUN, "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_planned_without_data(capsys, tmp_path):
    found = plan(capsys, "--no-probe", f"storage={tmp_path}", "train.workers.count=2")
    model = load_run(RUN, []).model.with_vocab(2048)
    assert found["parameters"]["total"] == count_parameters(model).total
    assert found["run"]["vocab_from"] == "fit_tokenizer.vocab_size"
    assert found["run"]["tokens"] == sum(stage["tokens"] for stage in found["stages"]) == pytest.approx(3e6, rel=0.01)
    assert [stage["rows"] for stage in found["stages"]] == [8, 8]
    assert len(found["memory"]["by_zero_stage"]) == 4
    assert found["memory"]["configured"] == found["memory"]["by_zero_stage"][1]
    assert found["disk"]["packed"] == 2 * found["run"]["tokens"]
    assert found["disk"]["checkpoint"] == 16 * found["parameters"]["total"]
    assert found["time"] is None, "the speed of this machine is unknown without a probe"


def test_a_named_device_has_a_time_and_a_price(capsys, tmp_path):
    arguments = ("--device", "H100", "--mfu", "0.5", "--price-per-hour", "3", f"storage={tmp_path}")
    found = plan(capsys, *arguments, "train.workers.count=8")
    assert found["run"]["precision"] == "bf16"
    assert found["memory"]["available"] == 80e9
    seconds = found["flops"]["total"] / (8 * 0.5 * 989e12)
    assert found["time"]["training_s"] == pytest.approx(seconds)
    hours = 8 * (found["time"]["training_s"] + found["time"]["validation_s"]) / 3600
    assert found["time"]["price"] == pytest.approx(3 * hours)
    assert any("no probe" in note for note in found["notes"])


def test_auto_micro_batches_are_planned_too(capsys, tmp_path):
    found = plan(capsys, "--no-probe", f"storage={tmp_path}", "train.micro_batch_size=auto", "train.workers.count=1")
    assert [stage["rows"] for stage in found["stages"]] == [16, 16]


def test_what_does_not_fit_is_told_with_what_to_change(capsys, tmp_path):
    size = ["model.dim=8192", "model.num_layers=64", "model.ffn_dim=28672", "model.num_heads=64"]
    found = plan(capsys, "--device", "t4", f"storage={tmp_path}", *size)
    text = " ".join(found["warnings"])
    assert "a rank needs about" in text
    assert "(saves " in text
    assert "the run may write" in text


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(capsys, tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["plan", RUN, "--no-probe", f"storage={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= width
    for word in ("parameters", "ZeRO 1", "in all", "checkpoints", "unknown without a probe"):
        assert word in text


def test_an_unknown_device_and_vocabulary_are_refused(capsys, tmp_path):
    assert cli.main(["plan", RUN, "--device", "abacus", "--no-probe"]) == 2
    assert "write one of" in capsys.readouterr().err
    file = tmp_path / "run.yaml"
    file.write_text(
        "name: t\nsources: {a: {kind: python_stdlib}}\ntrain: {max_steps: 10}\n"
        "fit_tokenizer: {kind: adopt, from_file: nowhere/tokenizer.json}\n"
    )
    assert cli.main(["plan", str(file), "--no-probe", f"storage={tmp_path}"]) == 2
    assert "--vocab" in capsys.readouterr().err


@pytest.mark.slow
def test_a_probe_measures_what_was_predicted(capsys, tmp_path):
    found = plan(capsys, f"storage={tmp_path}", "train.workers.count=2")
    probe = found["probe"]
    assert probe["predicted_bytes"] == pytest.approx(probe["peak_bytes"], rel=0.1)
    assert {(timing["rows"], timing["seq_len"]) for timing in probe["timings"]} == {(8, 128), (8, 256)}
    assert found["time"]["source"] == "the probe"
    assert found["time"]["training_s"] > 0
    assert PROBED_MICRO_BATCHES >= 2, "the second micro-batch meets the gradients of the first"
