"""The GPU benchmark runs whole on a CPU at tiny sizes, and finds out what computes something else."""

import json
from pathlib import Path

import gpu
import torch
from ranks import run_ranks
from support import gpu_check
from support.gpu_sides import Bench, Setup
from support.results import Table, keep

from rayllm.model.config import ModelConfig
from rayllm.train.precision import resolve_precision

CPU = Bench(torch.device("cpu"), emulate=True, compiles=False)
TINY = ModelConfig(dim=32, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=64, max_seq_len=64).with_vocab(64)


def test_every_part_runs_on_a_cpu_and_keeps_what_it_found(tmp_path: Path) -> None:
    order = gpu.Order(list(gpu.PARTS), "tiny", 5.0, tmp_path)
    assert run_ranks(gpu.run, 1, order, CPU) == [True]
    tables = {file.stem.rsplit("-")[-1]: json.loads(file.read_text())["tables"][0] for file in tmp_path.glob("*.json")}
    assert set(tables) == {"check", "bf16", "fp8"}
    outcomes = {row[0]: row[3] for row in tables["check"]["rows"]}
    assert outcomes["bf16, ZeRO-3"] == outcomes["fp8 rowwise"] == "pass"
    assert outcomes["bf16, flex"] == "not tried"
    assert len(tables["fp8"]["rows"]) == 3
    assert len(list(tmp_path.glob("*.md"))) == 3


def test_after_its_minutes_a_part_begins_nothing_new_and_says_so(tmp_path: Path) -> None:
    assert run_ranks(gpu.run, 1, gpu.Order(["check", "bf16"], "tiny", 0.0, tmp_path), CPU) == [True]
    tables = {file.stem.rsplit("-")[-1]: json.loads(file.read_text())["tables"][0] for file in tmp_path.glob("*.json")}
    assert {row[-1] for row in tables["check"]["rows"]} == {"left out: no time"}
    assert {row[1] for row in tables["bf16"]["rows"]} == {"left out: no time"}


def test_a_gradient_that_is_off_fails_the_check() -> None:
    assert run_ranks(_judge_a_wrong_reference, 1) == [(True, False)]


def _judge_a_wrong_reference() -> tuple[bool, bool]:
    right = gpu_check.trace(TINY, Setup(), 32, CPU)
    wrong = gpu_check.Trace(right.losses, {name: 1.01 * part for name, part in right.gradient.items()})
    setup = Setup("fp32", zero_stage=1)
    judged = [gpu_check.judge(setup, TINY, 32, CPU, reference) for reference in (right, wrong)]
    return judged[0].passed, judged[1].passed


def test_auto_never_chooses_fp8() -> None:
    assert {resolve_precision("auto", dim, torch.device("cpu")) for dim in (64, 2048, 8192)} <= {"fp32", "bf16"}


def test_a_table_reads_as_markdown(tmp_path: Path) -> None:
    file = keep("part", torch.device("cpu"), [Table("title", ["a", "b"], [["1", "2"]])], tmp_path)
    assert "| a | b |\n| --- | --- |\n| 1 | 2 |" in file.read_text()
