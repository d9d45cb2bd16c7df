"""fp16 with a scaled loss and emulated fp8 in every engine, at one rank and at two."""

from pathlib import Path
from typing import Any

import pytest
import torch
from figures import Tell
from ranks import MODEL, build_engine, run_ranks, small_config, small_plan, streams, train_small

from rayllm.data.batches import BatchReader
from rayllm.model.transformer import Transformer
from rayllm.optim.schedules import Rates
from rayllm.train import loss_scale
from rayllm.train.config import Fp8Config
from rayllm.train.fp8 import convert
from rayllm.train.loss_scale import GROWTH_STEPS, INITIAL_SCALE, LARGEST_SCALE, LossScaler

ENGINES = [("torch", 0, 1), ("torch", 0, 2), *(("deepspeed", stage, 2) for stage in (0, 1, 2, 3))]


@pytest.fixture(scope="module")
def fp32_losses(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    directory = str(tmp_path_factory.mktemp("fp32"))
    return list(run_ranks(train_small, 1, directory, "torch", 0, small_config())[0]["losses"].values())


@pytest.mark.parametrize(("kind", "stage", "world"), ENGINES)
def test_fp16_learns_as_fp32_does(
    kind: str, stage: int, world: int, fp32_losses: list[float], tmp_path: Path, tell: Tell
) -> None:
    result = run_ranks(train_small, world, str(tmp_path), kind, stage, small_config(), "fp16")[0]
    gap = max(abs(a - b) for a, b in zip(result["losses"].values(), fp32_losses, strict=True))
    engine = f"{kind} {stage}" if kind == "deepspeed" else kind
    tell("losses in fp16 against fp32", engine=engine, ranks=world, largest_gap=f"{gap:.1e}", allowed="2e-03")
    assert 0 < gap < 2e-3, gap
    assert result["state"]["loss_scale"] == {"scale": INITIAL_SCALE, "finite_steps": 6.0}


@pytest.mark.parametrize(("kind", "stage", "world"), ENGINES)
def test_norms_and_updates_do_not_depend_on_the_scale(kind: str, stage: int, world: int) -> None:
    (norm, weights), (same_norm, same_weights) = run_ranks(_one_step_of_each_scale, world, kind, stage)[0]
    assert norm == pytest.approx(same_norm, rel=1e-3)
    for name, tensor in weights.items():  # AdamW's first step moves every element by lr; tiny ones may turn around
        assert float((tensor - same_weights[name]).norm()) < 0.05 * 1e-3 * tensor.numel() ** 0.5, name


def _one_step_of_each_scale(kind: str, stage: int) -> list[tuple[float, dict[str, torch.Tensor]]]:
    found = []
    for scale in (2.0**10, 2.0**16):  # powers of two change no digit of what does not underflow
        loss_scale.INITIAL_SCALE = scale  # in this rank's own process
        found.append(_one_step(kind, stage))
    return found


def _one_step(kind: str, stage: int) -> tuple[float, dict[str, torch.Tensor]]:
    engine = build_engine(kind, stage, small_config(), "fp16")
    reader = BatchReader(list(streams().values()), small_plan(small_config()), 0)
    for batch in reader.micro_batches(0, engine.world_size, engine.rank, 2):
        engine.backward(engine.token_losses(batch).sum() / 256)
    outcome = engine.step(Rates(lr=1e-3))
    assert outcome.applied
    return outcome.grad_norm, {name: tensor.clone() for name, tensor in engine.full_parameters()}


@pytest.mark.parametrize(
    ("kind", "stage", "world"),
    [
        pytest.param(*case, marks=pytest.mark.slow) if case in (("torch", 0, 1), ("deepspeed", 2, 2)) else case
        for case in ENGINES
    ],
)
def test_a_scale_that_is_too_large_is_lowered_until_the_run_goes_on(
    kind: str, stage: int, world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default each way of skipping a step: the plain engine's, ZeRO's at 0, at 1 (as at 2, which is slow) and 3."""
    monkeypatch.setattr(loss_scale, "INITIAL_SCALE", 2.0**31)
    results = run_ranks(train_small, world, str(tmp_path), kind, stage, small_config(max_steps=14), "fp16")
    for result in results:
        state = result["state"]
        skipped = state["step"] - state["optimizer_steps"]
        assert skipped > 3, "the run would have ended if these counted as failures"
        assert state["optimizer_steps"] > 0
        assert state["loss_scale"]["scale"] == 2.0 ** (31 - skipped)
    warnings = [r["message"] for r in results[0]["records"] if "was skipped" in r.get("message", "")]
    assert len(warnings) == skipped
    assert "the loss scale lowered to" in warnings[0]


def test_the_scale_is_resumed_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "INITIAL_SCALE", 2.0**12)
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 4)
    straight = run_ranks(train_small, 2, str(tmp_path / "straight"), "deepspeed", 1, small_config(), "fp16")[0]
    run_ranks(train_small, 2, str(tmp_path / "halves"), "deepspeed", 1, small_config(), "fp16", 3)
    second = run_ranks(train_small, 2, str(tmp_path / "halves"), "deepspeed", 1, small_config(), "fp16")[0]
    assert second["resumed"]
    assert straight["state"]["loss_scale"] == {"scale": 2.0**13, "finite_steps": 2.0}
    assert second["state"]["loss_scale"] == straight["state"]["loss_scale"]
    assert all(torch.equal(second["weights"][name], tensor) for name, tensor in straight["weights"].items())


def test_the_scaler_by_hand() -> None:
    scaler = LossScaler(dynamic=True)
    assert scaler.update(finite=False)
    assert scaler.scale == INITIAL_SCALE / 2
    for _ in range(GROWTH_STEPS):
        assert not scaler.update(finite=True)
    assert scaler.scale == INITIAL_SCALE
    scaler.load_state_dict({"scale": 1.0, "finite_steps": 0.0})
    assert not scaler.update(finite=False), "at the bottom the scale is not what is wrong"
    scaler.load_state_dict({"scale": LARGEST_SCALE, "finite_steps": GROWTH_STEPS - 1.0})
    scaler.update(finite=True)
    assert scaler.scale == LARGEST_SCALE
    still = LossScaler(dynamic=False)
    assert (still.update(finite=False), still.scale, still.state_dict()) == (False, 1.0, {})


def converted(recipe: Any) -> Transformer:
    model = Transformer(MODEL)
    model.init_weights(1)
    convert(model, Fp8Config(recipe=recipe, emulate=True))
    return model


@pytest.mark.parametrize("recipe", ["tensorwise", "rowwise"])
def test_fp8_rounds_the_products_of_the_blocks_and_nothing_else(recipe: str) -> None:
    float8 = pytest.importorskip("torchao.float8.float8_linear")
    model, plain = converted(recipe), Transformer(MODEL)
    plain.init_weights(1)
    kinds = {name: type(part) for name, part in model.named_modules()}
    assert {name for name, kind in kinds.items() if kind is float8.Float8Linear} == {
        name for name, part in plain.named_modules() if isinstance(part, torch.nn.Linear)
    }
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    tokens = torch.randint(64, (2, 32), generator=torch.Generator().manual_seed(5))
    found = []
    for each in (plain, model):
        with torch.autocast("cpu", torch.bfloat16):
            losses = each(tokens, tokens)
        losses.mean().backward()
        assert losses.dtype == torch.float32
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in each.parameters())
        found.append(losses.detach())
    gap = float((found[0] - found[1]).abs().max())
    assert 1e-4 < gap < 0.05, gap


def test_an_emulated_layer_is_the_product_of_what_was_rounded() -> None:
    pytest.importorskip("torchao")
    layer = converted("tensorwise").model.layers[0].mlp.down_proj
    x = torch.randn(32, MODEL.ffn_dim, generator=torch.Generator().manual_seed(0))

    def rounded(tensor: torch.Tensor) -> torch.Tensor:
        scale = torch.finfo(torch.float8_e4m3fn).max / tensor.abs().max()
        return (tensor * scale).to(torch.float8_e4m3fn).float() / scale

    torch.testing.assert_close(layer(x), rounded(x) @ rounded(layer.weight.detach()).T, rtol=1e-3, atol=1e-3)


def test_fp8_is_the_same_at_every_zero_stage(tell: Tell) -> None:
    pytest.importorskip("torchao")
    ((plain_norm, plain),) = run_ranks(_one_fp8_step, 1, "torch", 0)
    for stage, (norm, weights) in enumerate(run_ranks(_one_fp8_step_of_each_stage, 2)[0]):
        assert norm == pytest.approx(plain_norm, rel=0.02), stage  # scales are those of half the batch
        gaps = {name: float((weights[name] - tensor).norm() / tensor.norm()) for name, tensor in plain.items()}
        worst = {"largest_relative_gap": f"{max(gaps.values()):.1e}", "allowed": "2e-02"}
        tell("weights after a step in emulated fp8 against one process", ZeRO=stage, ranks=2, **worst)
        for name, gap in gaps.items():
            assert gap < 0.02, f"{name} at stage {stage}"


def _one_fp8_step_of_each_stage() -> list[tuple[float, dict[str, torch.Tensor]]]:
    return [_one_fp8_step("deepspeed", stage) for stage in (0, 1, 2, 3)]


def _one_fp8_step(kind: str, stage: int) -> tuple[float, dict[str, torch.Tensor]]:
    from rayllm.train.deepspeed_engine import DeepSpeedEngine
    from rayllm.train.engine import TorchEngine

    optimizer, device = small_config().optimizer, torch.device("cpu")
    if kind == "torch":
        engine = TorchEngine(converted("rowwise"), optimizer, "fp8", device)
    else:
        engine = DeepSpeedEngine(converted("rowwise"), optimizer, "fp8", device, zero_stage=stage, micro_batch_size=2)
    reader = BatchReader(list(streams().values()), small_plan(small_config()), 0)
    for batch in reader.micro_batches(0, engine.world_size, engine.rank, 2):
        engine.backward(engine.token_losses(batch).sum() / 256)
    outcome = engine.step(Rates(lr=1e-3))
    return outcome.grad_norm, {name: tensor.clone() for name, tensor in engine.full_parameters()}
