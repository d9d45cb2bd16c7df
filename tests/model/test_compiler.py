"""Compiled training steps: the same losses, a bounded number of graphs, and a clear no where it cannot be."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rayllm.core.errors import SetupError
from rayllm.model import compiler
from rayllm.model.compiler import choose_compile, compiler_on

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SCRIPT = Path(__file__).parents[1] / "support" / "compiled_steps.py"


def compiled_steps(part: str, backend: str = "aot_eager", **environment: str) -> Any:
    """What the script finds; see there."""
    result = subprocess.run(
        [sys.executable, str(SCRIPT), backend, part],
        env=os.environ | {"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)["found"]


def check_gaps(found: list[dict[str, Any]]) -> None:
    assert len(found) == 4
    for case in found:
        exact = case["dtype"] == "None"
        assert case["loss"] < (1e-5 if exact else 0.05), case
        assert case["gradient"] < (1e-4 if exact else 0.05), case


def test_losses_and_gradients_equal_those_of_steps_that_are_not_compiled() -> None:
    check_gaps(compiled_steps("gaps"))


def test_one_graph_serves_all_layers_and_each_length_adds_one() -> None:
    found = compiled_steps("versions")
    of_block_and_softmax = 2
    assert found["one length"] == of_block_and_softmax
    assert found["the same again"] == found["one length"]
    assert found["validation and decoding"] == found["one length"]
    assert found["three lengths"] == 3 * of_block_and_softmax


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_every_engine_trains_compiled_as_it_does_uncompiled(backend: str) -> None:
    found = compiled_steps("engines", backend)
    assert [case["engine"] for case in found] == ["torch 0", "deepspeed 0", "deepspeed 1", "deepspeed 2"]
    for case in found:
        assert case["gap"] < 1e-4, case
        assert case["learnt"] > 0.01, case


@pytest.mark.slow
def test_compiled_kernels_compute_the_same() -> None:
    check_gaps(compiled_steps("gaps", "inductor"))


@pytest.mark.slow
def test_a_compiled_run_resumes_bit_for_bit() -> None:
    assert compiled_steps("resumed", "inductor") == {"went on": True, "same": True}


@pytest.mark.slow
def test_kernels_of_a_run_serve_the_next(tmp_path: Path) -> None:
    first = compiled_steps("kept", "inductor", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    second = compiled_steps("kept", "inductor", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert first["hits"] == 0
    assert second["hits"] > 0


def test_what_is_chosen_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "find_spec", lambda name: name)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(compiler.Path, "exists", lambda path: True)
    assert not choose_compile(False, CUDA).enabled
    assert choose_compile(True, CPU).enabled
    assert choose_compile("auto", CUDA).enabled
    assert not choose_compile("auto", CPU).enabled
    sharded = choose_compile("auto", CUDA, sharded=True)
    assert not sharded.enabled
    assert "ZeRO" in sharded.why
    assert choose_compile("auto", CUDA, precision="bf16").enabled


@pytest.mark.parametrize("precision", ["fp16", "fp8"])
def test_a_precision_that_was_not_tried_is_compiled_only_where_asked_for(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "_obstacle", lambda *_, **__: "")
    found = choose_compile("auto", CUDA, precision=precision)
    assert not found.enabled
    assert f"in {precision} have not been tried: train.compile=true" in found.why
    assert choose_compile(True, CUDA, precision=precision).enabled


@pytest.mark.parametrize(
    ("device", "missing", "named"),
    [
        (CPU, "g++", "g++, clang++"),
        (CUDA, "gcc", "gcc, clang"),
        (CPU, "Python.h", "Python.h"),
        (CUDA, "triton", "triton"),
    ],
)
def test_a_machine_that_cannot_compile_is_told_what_it_lacks(
    device: torch.device, missing: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "find_spec", lambda name: None if name == missing else name)
    monkeypatch.setattr(compiler.shutil, "which", lambda name: None if missing in ("gcc", "g++") else name)
    monkeypatch.setattr(compiler.Path, "exists", lambda path: path.name != missing)
    with pytest.raises(SetupError) as caught:
        choose_compile(True, device)
    assert named in caught.value.why
    assert "train.compile=false" in caught.value.fix
    assert not choose_compile("auto", device).enabled


def test_sharded_parameters_and_selective_recomputation_are_refused() -> None:
    with pytest.raises(SetupError, match="ZeRO stage 3"):
        choose_compile(True, CPU, sharded=True)
    with pytest.raises(SetupError, match="selective"):
        choose_compile(True, CPU, selective=True)


def test_the_environment_that_turns_the_compiler_off_is_lifted_while_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with compiler_on():
        assert "TORCHDYNAMO_DISABLE" not in os.environ
    assert os.environ["TORCHDYNAMO_DISABLE"] == "1"
