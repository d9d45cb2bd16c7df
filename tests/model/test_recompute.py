"""What is computed again changes memory and time, never a number."""

from collections import Counter
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from rayllm.model.config import ModelConfig
from rayllm.model.recompute import EXPENSIVE, RUNNERS, recompute_cheap
from rayllm.model.transformer import Transformer
from rayllm.train.config import TrainConfig

KINDS = ("none", "full", "selective")
LAYERS = 3
SIZES = {"vocab_size": 64, "real_vocab_size": 64, "dim": 64, "num_layers": LAYERS, "num_heads": 4, "num_kv_heads": 2}


def build(kind: str, **changes: Any) -> Transformer:
    model = Transformer(ModelConfig(**(SIZES | {"ffn_dim": 128, "max_seq_len": 64} | changes)))
    model.init_weights(1)
    model.set_activation_checkpointing(kind)
    return model


def batch(seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, labels, and documents that end within rows."""
    ids = torch.randint(64, (2, 65), generator=torch.Generator().manual_seed(seed))
    return ids[:, :-1], ids[:, 1:], (ids[:, :-1] % 17 == 0).cumsum(1)


def losses_and_gradients(model: Transformer, *, masked: bool, dtype: torch.dtype | None) -> dict[str, Tensor]:
    ids, labels, doc_ids = batch()
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        losses = model(ids, labels, doc_ids if masked else None)
    losses.sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return found | {"losses": losses.detach()}


def test_every_kind_of_the_config_has_its_runner() -> None:
    assert set(get_args(TrainConfig.model_fields["activation_checkpointing"].annotation)) == set(RUNNERS) == set(KINDS)


def test_what_was_a_switch_is_refused_with_the_names_to_choose_from() -> None:
    with pytest.raises(ValueError, match="'none', 'full' or 'selective'"):
        TrainConfig(max_steps=1, activation_checkpointing=True)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", ["full", "selective"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "norm": "layernorm",
            "bias": True,
            "feed_forward": "relu2",
            "positions": {"kind": "alibi"},
            "exportable": False,
        },
        {"qk_norm": "none", "feed_forward": "geglu", "positions": {"kind": "learned"}, "exportable": False},
    ],
)
@pytest.mark.parametrize("masked", [True, False])
def test_losses_and_gradients_are_the_same_to_the_bit(
    kind: str, dtype: torch.dtype | None, changes: dict[str, Any], masked: bool
) -> None:
    expected = losses_and_gradients(build("none", **changes), masked=masked, dtype=dtype)
    found = losses_and_gradients(build(kind, **changes), masked=masked, dtype=dtype)
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class Calls(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def expensive_calls(kind: str) -> int:
    """Products and attentions of a forward and a backward pass, by autograd's own count of what it runs."""
    model, (ids, labels, doc_ids) = build(kind), batch()
    with Calls() as calls:
        model(ids, labels, doc_ids).sum().backward()
    return sum(calls.counts[name] for name in EXPENSIVE)


def test_selective_computes_no_product_and_no_attention_again() -> None:
    none, full, selective = map(expensive_calls, KINDS)
    assert selective == none
    assert full == none + LAYERS * 4  # all of a block but its last product: qkv, attention, o, gate and up


def held_bytes(kind: str, **changes: Any) -> int:
    """Bytes that are still allocated when a forward pass has ended and its backward pass is yet to come."""
    model, (ids, labels, doc_ids) = build(kind, **changes), batch()
    model(ids, labels, doc_ids).sum().backward()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        losses = model(ids, labels, doc_ids).sum()
    held = sum(event.self_cpu_memory_usage for event in found.key_averages())
    losses.backward()
    return held


def test_memory_falls_with_what_is_computed_again() -> None:
    none, full, selective = map(held_bytes, KINDS)
    a_block_s_input = 2 * 64 * 64 * 4
    assert full < 0.5 * selective < 0.4 * none, f"held: {none}, {selective}, {full}"
    assert held_bytes("full", num_layers=9) - full < 6 * 1.5 * a_block_s_input


def test_what_is_kept_may_not_be_changed_in_place() -> None:
    class Careless(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            product = super().forward(input)
            first = product * 2
            return (first + product.add_(1).sin()) @ self.weight

    block = Careless(8, 8, bias=False)
    out = recompute_cheap(block, torch.randn(4, 8, requires_grad=True))
    with pytest.raises(AssertionError, match="changed in place"):
        out.sum().backward()


def test_without_gradients_nothing_is_kept_or_run_again() -> None:
    model, (ids, labels, doc_ids) = build("full"), batch()
    with torch.no_grad():
        found = model(ids, labels, doc_ids)
    assert found.equal(build("none")(ids, labels, doc_ids))
