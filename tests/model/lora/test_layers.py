"""Adapters in a model: nothing changes before the first step, only they are trained, merging changes nothing."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from rayllm.model.config import ModelConfig
from rayllm.model.lora.adapt import adapt, adapted_layers, adapter_splits, adapters_off, draw_adapters
from rayllm.model.lora.config import LoraConfig, adapted_matrices, count_adapters, idle_targets
from rayllm.model.transformer import Transformer

CONFIG = ModelConfig(
    vocab_size=97, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=48, max_seq_len=32, init_std=0.2
)
KINDS: dict[str, dict[str, Any]] = {
    "all": {},
    "some of a fused matrix": {"targets": ("k_proj", "up_proj", "down_proj")},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "dora on some": {"dora": True, "targets": ("q_proj", "v_proj", "o_proj")},
}


def base(config: ModelConfig = CONFIG) -> Transformer:
    model = Transformer(config)
    model.init_weights(3)
    if config.bias:
        torch.manual_seed(8)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def adapted(lora: LoraConfig, config: ModelConfig = CONFIG, *, trained: bool = False) -> Transformer:
    model = base(config)
    adapt(model, lora)
    draw_adapters(model, 5)
    if trained:
        torch.manual_seed(6)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tokens() -> torch.Tensor:
    return torch.randint(97, (2, 20), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_new_adapters_change_no_bit_of_what_the_base_computes(kind: str, bias: bool, precision: str) -> None:
    config = CONFIG.model_copy(update={"bias": bias, "norm": "layernorm" if bias else "rmsnorm"})
    before, after = base(config), base(config)
    adapt(after, LoraConfig(**KINDS[kind]), torch.bfloat16 if precision == "bf16" else None)
    draw_adapters(after, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        assert torch.equal(before(tokens(), tokens()), after(tokens(), tokens()))


@pytest.mark.parametrize("kind", ["all", "dora"])
def test_a_base_in_half_precision_computes_outside_autocast_too(kind: str) -> None:
    """As sampling while training does; its biases keep float32."""
    config = CONFIG.model_copy(update={"bias": True, "norm": "layernorm"})
    model = base(config)
    before = model.logits(tokens())
    adapt(model, LoraConfig(**KINDS[kind]), torch.bfloat16)
    draw_adapters(model, 5)
    assert {parameter.dtype for name, parameter in model.named_parameters() if name.endswith("bias")} == {torch.float32}
    after = model.logits(tokens())
    assert after.dtype == before.dtype
    torch.testing.assert_close(after, before, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_are_trained(kind: str) -> None:
    lora = LoraConfig(rank=3, **KINDS[kind])
    model = adapted(lora)
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert sum(parameter.numel() for parameter in trained.values()) == count_adapters(lora, CONFIG)
    model(tokens(), tokens()).sum().backward()
    assert all(parameter.grad is None for parameter in model.parameters() if not parameter.requires_grad)
    assert all(parameter.grad is not None for parameter in trained.values())


def test_adapters_are_counted_by_hand() -> None:
    assert count_adapters(LoraConfig(rank=4), CONFIG) == 2 * 4 * (
        (32 + 32) + 2 * (32 + 16) + (32 + 32) + 2 * (32 + 48) + (48 + 32)
    )
    assert count_adapters(LoraConfig(rank=4, targets=("k_proj",), dora=True), CONFIG) == 2 * (4 * (32 + 16) + 16)


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_give_what_adapters_give(kind: str) -> None:
    model = adapted(LoraConfig(**KINDS[kind]), trained=True)
    merged = base()
    with torch.no_grad():
        for name, layer in adapted_layers(model):
            merged.get_parameter(f"{name}.weight").copy_(layer.merged(layer.weight))
        found, expected = merged.logits(tokens()), model.logits(tokens())
        assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())
        assert float((base().logits(tokens()) - expected).abs().max()) > 0.1


def test_adapters_can_be_switched_off() -> None:
    model = adapted(LoraConfig(), trained=True)
    with torch.no_grad():
        before = model.logits(tokens())
        with adapters_off(model):
            assert torch.equal(model.logits(tokens()), base().logits(tokens()))
        assert torch.equal(model.logits(tokens()), before)


def test_scale_is_alpha_by_rank_or_by_its_root() -> None:
    assert LoraConfig(rank=16, alpha=8).scale == 0.5
    assert LoraConfig(rank=16, alpha=8, rslora=True).scale == 2.0


def test_each_matrix_has_an_a_of_its_own_that_depends_on_its_name_alone() -> None:
    everywhere = dict(adapted_layers(adapted(LoraConfig())))
    alone = dict(adapted_layers(adapted(LoraConfig(targets=("v_proj",)))))
    name = "model.layers.1.self_attn.qkv_proj"
    of_all = everywhere[name].adapters()
    assert torch.equal(of_all["v_proj"][0], alone[name].adapters()["v_proj"][0])
    assert not torch.equal(of_all["q_proj"][0], of_all["v_proj"][0])
    values = torch.cat([layer.lora_A.detach().flatten() for layer in everywhere.values() if layer.in_features == 32])
    bound = 1 / math.sqrt(32)
    assert float(values.abs().max()) <= bound
    assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert all(float(layer.lora_B.detach().abs().max()) == 0 for layer in everywhere.values())


def test_dropout_is_for_training_and_for_adapters_alone() -> None:
    model = adapted(LoraConfig(dropout=0.5), trained=True)
    torch.manual_seed(1)
    first, second = (model(tokens(), tokens()) for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(tokens(), tokens()), adapted(LoraConfig(), trained=True)(tokens(), tokens()))


@pytest.mark.parametrize("recompute", ["full", "selective"])
def test_recomputed_blocks_drop_the_same_inputs(recompute: str) -> None:
    gradients = []
    for kind in ("none", recompute):
        model = adapted(LoraConfig(dropout=0.3), trained=True)
        model.set_activation_checkpointing(kind)
        torch.manual_seed(2)
        model(tokens(), tokens()).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_frozen_matrices_in_bf16_leave_results_in_the_dtype_of_their_inputs() -> None:
    model = base()
    adapt(model, LoraConfig(), torch.bfloat16)
    draw_adapters(model, 5)
    weights = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert weights["model.layers.0.mlp.down_proj.weight"] == torch.bfloat16
    assert weights["model.layers.0.mlp.down_proj.lora_A"] == weights["model.embed_tokens.weight"] == torch.float32
    with torch.no_grad():
        found, expected = model.logits(tokens()), base().logits(tokens())
    assert found.dtype == torch.float32
    assert 0 < float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("all",), 7),
        (("q_proj", "v_proj"), 2),
        (("*_proj",), 7),
        (("?_proj",), 4),
        (("model.layers.*.mlp.*",), 3),
    ],
)
def test_targets_are_patterns_over_names(targets: tuple[str, ...], expected: int) -> None:
    found = adapted_matrices(LoraConfig(targets=targets), CONFIG)
    assert sum(map(len, found.values())) == 2 * expected
    assert idle_targets(LoraConfig(targets=targets), CONFIG) == []


def test_targets_may_name_layers() -> None:
    found = adapted_matrices(LoraConfig(targets=("model.layers.1.self_attn.[qk]_proj",)), CONFIG)
    assert found == {"model.layers.1.self_attn.qkv_proj": ["q_proj", "k_proj"]}
    assert idle_targets(LoraConfig(targets=("q_proj", "c_attn", "model.layers.2.*")), CONFIG) == [
        "c_attn",
        "model.layers.2.*",
    ]


def test_matrices_of_adapters_are_known_apart() -> None:
    splits = adapter_splits(adapted(LoraConfig(rank=3, targets=("q_proj", "v_proj"))))
    assert splits["model.layers.0.self_attn.qkv_proj.lora_A"] == (3, 3)
    assert splits["model.layers.0.self_attn.qkv_proj.lora_B"] == (32, 16)


def test_layers_without_adapters_stay_linear_layers() -> None:
    model = adapted(LoraConfig(targets=("q_proj",)))
    assert isinstance(model.get_submodule("model.layers.0.mlp.down_proj"), nn.Linear)
    assert dict(base().named_parameters()).keys() <= dict(model.named_parameters()).keys()
