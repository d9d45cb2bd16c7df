import math
from typing import Any

import pytest
import torch

from rayllm.core.errors import ConfigError
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig, GroupConfig, GroupsConfig, MuonConfig
from rayllm.optim.optimizer import GroupOptimizer, build_optimizer
from rayllm.optim.schedules import Rates
from rayllm.train.engine import arrange, whole_parameters

SIZES: dict[str, Any] = {"dim": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "ffn_dim": 24}
MODEL = ModelConfig(vocab_size=32, max_seq_len=16, loss_chunk_tokens=64, **SIZES)


def model_of(**changes: Any) -> Transformer:
    model = Transformer(ModelConfig.model_validate(MODEL.model_dump() | changes))
    model.init_weights(0)
    return model


def arranged(model: Transformer, config: AdamWConfig | MuonConfig, max_norm: float | None = None) -> GroupOptimizer:
    optimizer = build_optimizer(model, config)
    optimizer.max_norm = max_norm
    arrange(optimizer, whole_parameters(model, optimizer))
    return optimizer


def backward(model: Transformer, seed: int, scale: float = 1.0) -> None:
    tokens = torch.randint(0, 32, (2, 17), generator=torch.Generator().manual_seed(seed))
    (model(tokens[:, :-1], tokens[:, 1:]).mean() * scale).backward()


@pytest.mark.parametrize("norm", [0.05, 100.0])
def test_adamw_equals_torch_with_its_clipping(norm: float) -> None:
    ours, theirs = model_of(), model_of()
    optimizer = arranged(ours, AdamWConfig(weight_decay=0.1), norm)
    optimizer.set_rates(Rates(lr=1e-2))
    decays = [p for name, p in theirs.named_parameters() if p.ndim >= 2 and "embed" not in name]
    others = [p for name, p in theirs.named_parameters() if p.ndim < 2 or "embed" in name]
    groups = [{"params": decays, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for step in range(3):
        backward(ours, step)
        backward(theirs, step)
        total = torch.nn.utils.clip_grad_norm_(theirs.parameters(), norm)
        optimizer.step()
        reference.step()
        assert math.isclose(optimizer.last_norm, float(total), rel_tol=1e-5)
        ours.zero_grad()
        theirs.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_the_fused_kernel_gives_the_numbers_of_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fused, plain = model_of(), model_of()
    for model, devices in ((fused, ("cpu",)), (plain, ())):
        monkeypatch.setattr("rayllm.optim.adamw.FUSED", devices)
        optimizer = arranged(model, AdamWConfig(), 0.05)
        optimizer.set_rates(Rates(lr=1e-2))
        for step in range(4):
            backward(model, step)
            optimizer.step()
            model.zero_grad()
    for left, right in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_a_group_without_any_gradient_stays_while_the_others_are_clipped_and_updated() -> None:
    model = model_of()
    optimizer = arranged(model, AdamWConfig(), 0.05)
    optimizer.set_rates(Rates(lr=1e-2))
    backward(model, 0)
    groups = [group["params"] for group in optimizer.param_groups]
    for parameter in groups[0]:
        parameter.grad = None
    before = [[parameter.clone() for parameter in group] for group in groups]
    optimizer.step()
    assert optimizer.last_norm > 0.05
    moved = [[not torch.equal(*pair) for pair in zip(*both, strict=True)] for both in zip(before, groups, strict=True)]
    assert not any(moved[0])
    assert len(moved) > 1
    assert all(map(all, moved[1:]))


@pytest.mark.parametrize("config", [AdamWConfig(), MuonConfig()], ids=["adamw", "muon"])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_state(config: AdamWConfig | MuonConfig) -> None:
    model = model_of()
    optimizer = arranged(model, config, 1.0)
    optimizer.set_rates(Rates(lr=1e-2, momentum=0.9))
    backward(model, 0)
    optimizer.step()
    assert optimizer.finite
    before = [tensor.clone() for tensor in (*model.parameters(), *_states(optimizer))]
    model.zero_grad()
    backward(model, 1, math.inf)
    optimizer.step()
    assert not optimizer.finite
    after = [*model.parameters(), *_states(optimizer)]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


def _states(optimizer: GroupOptimizer) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in state.values()]


def test_muon_clips_the_gradient_and_not_the_update() -> None:
    config = MuonConfig(ns_dtype="fp32", nesterov=False)
    clipped, free = model_of(), model_of()
    for model, norm in ((clipped, 1e-3), (free, 0.0)):
        optimizer = arranged(model, config, norm)
        optimizer.set_rates(Rates(lr=1e-2, momentum=0.9))
        backward(model, 0)
        optimizer.step()
    name = "model.layers.0.self_attn.o_proj.weight"
    # Orthogonalising forgets the length, so a clipped first step moves as far as one that is not.
    torch.testing.assert_close(clipped.get_parameter(name), free.get_parameter(name), rtol=1e-3, atol=1e-6)


def test_fused_tensors_are_orthogonalised_as_their_separate_matrices() -> None:
    model = model_of()
    optimizer = arranged(model, MuonConfig(ns_dtype="fp32", weight_decay=0.0, update_scale="spectral"))
    optimizer.set_rates(Rates(lr=1.0, momentum=0.9))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    backward(model, 0)
    optimizer.step()
    for name, rows in {"self_attn.qkv_proj": (16, 8, 8), "mlp.gate_up_proj": (24, 24), "mlp.down_proj": (16,)}.items():
        full = f"model.layers.0.{name}.weight"
        update = before[full] - model.get_parameter(full).detach()
        for part in update.split(list(rows)):
            values = torch.linalg.svdvals(part) / math.sqrt(max(1.0, part.shape[0] / part.shape[1]))
            assert values.min() > 0.5
            assert values.max() < 1.4


def test_each_group_has_its_learning_rate_and_decay() -> None:
    groups = GroupsConfig(
        embedding=GroupConfig(lr_scale=3.0), head=GroupConfig(lr_scale=0.5, weight_decay=0.3), vectors=GroupConfig()
    )
    optimizer = build_optimizer(model_of(tie_embeddings=False), MuonConfig(groups=groups, weight_decay=0.1))
    optimizer.set_rates(Rates(lr=0.01))
    found = {group["names"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert found == {
        ("matrices",): (0.01, 0.1),
        ("head",): (0.005, 0.3),
        ("embedding",): (0.03, 0.0),
        ("vectors",): (0.01, 0.0),
    }


@pytest.mark.parametrize(("dim", "matrices", "head"), [(8, 0.01 * 2**0.5, 0.02), (32, 0.01 / 2**0.5, 0.005)])
def test_the_rates_of_a_built_optimizer_follow_the_width(dim: int, matrices: float, head: float) -> None:
    config = MuonConfig(width_scaling="mup", base_width=16)
    optimizer = build_optimizer(model_of(dim=dim, tie_embeddings=False), config)
    optimizer.set_rates(Rates(lr=0.01))
    found = {group["names"]: group["lr"] for group in optimizer.param_groups}
    assert found == {
        ("matrices",): pytest.approx(matrices),
        ("head",): pytest.approx(head),
        ("embedding", "vectors"): pytest.approx(0.01),
    }


def test_a_group_whose_learning_rate_is_zero_stays() -> None:
    model = model_of()
    config = AdamWConfig(groups=GroupsConfig(embedding=GroupConfig(lr_scale=0.0)))
    optimizer = arranged(model, config)
    optimizer.set_rates(Rates(lr=0.1))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    backward(model, 0)
    optimizer.step()
    same = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert same == {"model.embed_tokens.weight"}


def test_frozen_parameters_have_no_group() -> None:
    model = model_of()
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        build_optimizer(model, AdamWConfig())
    model.model.norm.weight.requires_grad_(True)
    (group,) = build_optimizer(model, MuonConfig()).param_groups
    assert group["params"] == [model.model.norm.weight]
