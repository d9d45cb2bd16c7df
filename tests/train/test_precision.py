import pytest
import torch

from rayllm.core.errors import SetupError
from rayllm.train import precision
from rayllm.train.precision import AMX_MIN_DIM, has_amx, resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("amx", "dim", "chosen"),
    [
        (False, AMX_MIN_DIM * 4, "fp32"),
        (True, AMX_MIN_DIM - 1, "fp32"),
        (True, AMX_MIN_DIM, "bf16"),
    ],
)
def test_auto_on_a_cpu_needs_the_hardware_and_the_width(
    monkeypatch: pytest.MonkeyPatch, amx: bool, dim: int, chosen: str
) -> None:
    monkeypatch.setattr(precision, "has_amx", lambda: amx)
    assert resolve_precision("auto", dim, CPU) == chosen


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
@pytest.mark.parametrize("amx", [False, True])
def test_a_cpu_obeys_whatever_is_asked_for(monkeypatch: pytest.MonkeyPatch, asked: str, amx: bool) -> None:
    monkeypatch.setattr(precision, "has_amx", lambda: amx)
    assert resolve_precision(asked, 8, CPU) == asked


@pytest.mark.parametrize(
    ("capability", "asked", "chosen"),
    [((7, 5), "auto", "fp32"), ((8, 0), "auto", "bf16"), ((9, 0), "bf16", "bf16"), ((9, 0), "fp32", "fp32")],
)
def test_a_gpu_is_judged_by_its_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], asked: str, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert resolve_precision(asked, 8, CUDA) == chosen


def test_bf16_is_refused_on_an_old_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(SetupError, match=r"no bf16[\s\S]*Tesla T4[\s\S]*train\.precision=fp32"):
        resolve_precision("bf16", 8, CUDA)


def test_the_cpu_is_asked_not_guessed() -> None:
    assert isinstance(has_amx(), bool)
