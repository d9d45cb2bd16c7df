"""Adapters on every engine: the same losses, nothing but them in state and checkpoint, and an exact resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import MODEL, run_ranks, small_config, train_small
from safetensors.torch import load_file

from rayllm.model.lora.config import LoraConfig, count_adapters
from rayllm.train.config import TrainConfig

LORA = LoraConfig(rank=4, alpha=8, targets=("q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"))
ENGINES = [("torch", 0, 1), ("torch", 0, 2), *(("deepspeed", stage, world) for stage in range(4) for world in (1, 2))]


def config(lora: LoraConfig = LORA, **changes: Any) -> TrainConfig:
    return small_config(lora=lora, init="from_checkpoint:nowhere", **changes)


def trained(directory: Path, kind: str, stage: int, world: int, settings: TrainConfig, *more: Any) -> dict[str, Any]:
    return run_ranks(train_small, world, str(directory), kind, stage, settings, *more)[0]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """What a plain engine alone makes of each optimiser and precision."""
    return {
        (optimizer, precision): trained(
            tmp_path_factory.mktemp("straight"), "torch", 0, 1, config(optimizer=of(optimizer)), precision
        )
        for optimizer, precision in (("adamw", "fp32"), ("adamw", "bf16"), ("muon", "fp32"))
    }


def of(optimizer: str) -> dict[str, Any]:
    return {"kind": optimizer, "lr": 1e-2} | ({"ns_dtype": "fp32"} if optimizer == "muon" else {})


QUICK = [("adamw", "bf16", "deepspeed", 3, 2), ("muon", "fp32", "deepspeed", 1, 2)]
REST = [
    pytest.param(*how, *engine, marks=pytest.mark.slow)
    for how in (("adamw", "fp32"), ("adamw", "bf16"), ("muon", "fp32"))
    for engine in ENGINES[1:]
    if (*how, *engine) not in QUICK
]


@pytest.mark.parametrize(("optimizer", "precision", "kind", "stage", "world"), [*QUICK, *REST])
def test_engines_train_adapters_alike(
    optimizer: str, precision: str, kind: str, stage: int, world: int, straight: dict[Any, Any], tmp_path: Path
) -> None:
    expected = straight[optimizer, precision]
    found = trained(tmp_path, kind, stage, world, config(optimizer=of(optimizer)), precision)
    tolerance = 1e-5 if precision == "fp32" else 2e-3
    assert found["losses"] == pytest.approx(expected["losses"], abs=tolerance)
    assert found["weights"].keys() == expected["weights"].keys()


@pytest.mark.parametrize(
    ("optimizer", "kind", "stage", "world"),
    [
        ("adamw", "deepspeed", 3, 2),
        pytest.param("adamw", "torch", 0, 1, marks=pytest.mark.slow),
        pytest.param("adamw", "deepspeed", 1, 2, marks=pytest.mark.slow),
        pytest.param("muon", "torch", 0, 1, marks=pytest.mark.slow),
        pytest.param("muon", "deepspeed", 2, 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_with_dropout_resumes_bit_for_bit(
    optimizer: str, kind: str, stage: int, world: int, tmp_path: Path
) -> None:
    settings = config(LORA.model_copy(update={"dropout": 0.2}), optimizer=of(optimizer))
    whole = trained(tmp_path / "whole", kind, stage, world, settings, "bf16")
    first = trained(tmp_path / "parts", kind, stage, world, settings, "bf16", 3)
    assert not first["finished"]
    rest = trained(tmp_path / "parts", kind, stage, world, settings, "bf16")
    assert rest["resumed"]
    assert rest["losses"] == {step: loss for step, loss in whole["losses"].items() if step > 3}
    assert all(torch.equal(rest["slices"][key], tensor) for key, tensor in whole["slices"].items())


@pytest.mark.slow
def test_another_stage_and_number_of_ranks_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", "torch", 0, 1, config())
    trained(tmp_path / "parts", "deepspeed", 2, 2, config(), "fp32", 3)
    rest = trained(tmp_path / "parts", "deepspeed", 3, 1, config())
    assert rest["losses"] == pytest.approx({s: loss for s, loss in whole["losses"].items() if s > 3}, abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "stage"),
    [("deepspeed", 3), *(pytest.param(*e, marks=pytest.mark.slow) for e in [("torch", 0), ("deepspeed", 2)])],
)
def test_nothing_but_adapters_is_in_state_and_checkpoint(kind: str, stage: int, tmp_path: Path) -> None:
    found = trained(tmp_path, kind, stage, 2, config())
    assert all("lora_" in name for name, _, _ in found["slices"])
    numbers = count_adapters(LORA, MODEL)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert sum(tensor.numel() for tensor in load_file(newest / "model.safetensors").values()) == numbers
    held = [
        tensor.numel()
        for path in (newest / "state").glob("*.safetensors")
        for key, tensor in load_file(path).items()
        if not key.startswith("rng.")
    ]
    assert sum(held) == 3 * numbers
    assert (newest / "model.safetensors").stat().st_size < 4 * numbers + 4_000  # and names


@pytest.mark.slow
def test_lengths_of_dora_are_trained_too(tmp_path: Path) -> None:
    lora = LORA.model_copy(update={"dora": True})
    plain = trained(tmp_path / "plain", "torch", 0, 1, config(lora))
    sharded = trained(tmp_path / "sharded", "deepspeed", 3, 2, config(lora))
    assert sharded["losses"] == pytest.approx(plain["losses"], abs=1e-5)
    name = "model.layers.0.mlp.down_proj.lora_magnitude"
    assert torch.allclose(plain["weights"][name], sharded["weights"][name], atol=1e-5)
    assert float(plain["weights"][name].std()) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": "full"},
        {"activation_checkpointing": "selective"},
        {"engine": {"kind": "deepspeed", "zero_stage": 2, "offload_optimizer": True}},
        {"engine": {"kind": "deepspeed", "zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}},
    ],
)
def test_what_saves_memory_changes_no_loss(changes: dict[str, Any], straight: dict[Any, Any], tmp_path: Path) -> None:
    settings = config(optimizer=of("adamw"), **changes)
    found = trained(tmp_path, "deepspeed", settings.engine.zero_stage, 1, settings)
    assert found["losses"] == pytest.approx(straight["adamw", "fp32"]["losses"], abs=1e-5)
