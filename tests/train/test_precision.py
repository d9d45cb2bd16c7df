import sys

import pytest
import torch
from pydantic import ValidationError

from rayllm.core.cpu import finds_bf16, multiplies_bf16
from rayllm.core.errors import SetupError
from rayllm.model.config import ModelConfig
from rayllm.pipelines.train import Config
from rayllm.train import precision
from rayllm.train.config import Fp8Config, TrainConfig
from rayllm.train.fp8 import misfits
from rayllm.train.precision import CPU_BF16_MIN_DIM, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("bf16", "dim", "chosen"),
    [
        (False, CPU_BF16_MIN_DIM * 4, "fp32"),
        (True, CPU_BF16_MIN_DIM - 1, "fp32"),
        (True, CPU_BF16_MIN_DIM, "bf16"),
    ],
)
def test_auto_on_a_cpu_needs_the_hardware_and_the_width(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, dim: int, chosen: str
) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: bf16)
    assert resolve_precision("auto", dim, CPU) == chosen


@pytest.mark.parametrize("asked", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_cpu_obeys_whatever_is_asked_for(monkeypatch: pytest.MonkeyPatch, asked: str, bf16: bool) -> None:
    monkeypatch.setattr(precision, "multiplies_bf16", lambda: bf16)
    assert resolve_precision(asked, 8, CPU) == asked


@pytest.mark.parametrize(
    ("capability", "asked", "chosen"),
    [
        ((7, 5), "auto", "fp32"),
        ((8, 0), "auto", "bf16"),
        ((9, 0), "bf16", "bf16"),
        ((9, 0), "fp32", "fp32"),
        ((7, 0), "fp16", "fp16"),
    ],
)
def test_a_gpu_is_judged_by_its_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], asked: str, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "some GPU")
    assert resolve_precision(asked, 8, CUDA) == chosen


@pytest.mark.fault("P17", "bf16 on a GPU without it", "refused, never replaced")
def test_bf16_is_refused_on_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(SetupError, match=r"no bf16[\s\S]*Tesla T4[\s\S]*train\.precision=fp16"):
        resolve_precision("bf16", 8, CUDA)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("avx512f avx512_vnni amx_bf16 amx_tile", True),
        ("avx512_vbmi2 avx512_bf16 clzero", True),
        ("avx2 avx512f avx512_vnni", False),
        ("", False),
    ],
)
def test_the_cpu_is_asked_not_guessed(flags: str, found: bool) -> None:
    assert finds_bf16(f"processor : 0\nflags : fpu {flags}\nbugs : none\n") is found
    assert isinstance(multiplies_bf16(), bool)


@pytest.mark.fault("P17", "fp8 on a CPU, not emulated", "refused, never replaced")
def test_fp8_on_a_cpu_is_refused_unless_emulation_is_asked_for() -> None:
    pytest.importorskip("torchao")
    with pytest.raises(SetupError, match=r"no fp8 \(rowwise\)[\s\S]*9\.0[\s\S]*CPU[\s\S]*train\.fp8\.emulate=true"):
        resolve_precision("fp8", 256, CPU, Fp8Config(recipe="rowwise"))
    assert resolve_precision("fp8", 256, CPU, Fp8Config(emulate=True)) == "fp8"


@pytest.mark.fault("P17", "fp8 recipes on GPUs by capability", "refused where the hardware lacks it")
@pytest.mark.parametrize(
    ("capability", "recipe", "runs"),
    [
        ((8, 0), "tensorwise", False),
        ((8, 9), "tensorwise", True),
        ((8, 9), "rowwise", False),
        ((9, 0), "rowwise", True),
    ],
)
def test_a_gpu_runs_the_fp8_that_its_hardware_has(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], recipe: str, runs: bool
) -> None:
    pytest.importorskip("torchao")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "some GPU")
    config = Fp8Config.model_validate({"recipe": recipe})
    if runs:
        assert resolve_precision("fp8", 2048, CUDA, config) == "fp8"
    else:
        with pytest.raises(SetupError, match=r"some GPU has compute capability 8\.[09]"):
            resolve_precision("fp8", 2048, CUDA, config)


def test_without_torchao_fp8_is_refused_with_the_command_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(SetupError, match=r"rayllm\[gpu\]"):
        resolve_precision("fp8", 256, CPU, Fp8Config(emulate=True))


def test_sizes_that_8_bit_products_cannot_have_are_named() -> None:
    fits = ModelConfig(dim=64, num_heads=4, num_kv_heads=2, ffn_dim=128)
    assert misfits(fits, [32, 64]) == []
    found = misfits(ModelConfig(dim=72, num_heads=4, num_kv_heads=2, head_dim=20, ffn_dim=100), [32, 40])
    assert found[:2] == ["model.dim is 72", "model.ffn_dim is 100"]
    assert found[2:] == ["a seq_len is 40"]  # 4 heads of 20 channels are 80, with keys and values 160


def test_settings_of_fp8_without_fp8_are_refused() -> None:
    with pytest.raises(ValidationError, match="set it to fp8"):
        TrainConfig(max_steps=1, precision="bf16", fp8=Fp8Config(emulate=True))


def test_a_run_with_sizes_that_fp8_cannot_have_is_refused() -> None:
    run = {"name": "x", "train": {"max_steps": 1, "precision": "fp8", "seq_len": 40, "global_batch_tokens": 80}}
    with pytest.raises(ValidationError, match=r"multiples of 16, but model\.ffn_dim is 100; a seq_len is 40"):
        Config.model_validate(run | {"model": {"ffn_dim": 100}})
