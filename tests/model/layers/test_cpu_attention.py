"""Attention for bf16 on CPUs gives what exact attention gives, to the digits of bf16."""

import pytest
import torch
import torch.nn.functional as F

from rayllm.model.layers import cpu_attention
from rayllm.model.layers.visibility import DenseVisibility


def inputs(heads: int = 3, seq: int = 20) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, seq, 3, 16), (2, seq, heads, 16), (2, seq, heads, 16)]
    return [torch.randn(shape, generator=generator).bfloat16().transpose(1, 2) for shape in shapes]


def gradients(attend, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [part.detach().clone().requires_grad_() for part in parts]
    out = attend(*leaves)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    (out * weights).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


@pytest.mark.parametrize(("kv_heads", "seq", "block"), [(3, 20, 128), (1, 20, 128), (3, 24, 8), (1, 61, 8)])
def test_values_and_gradients_are_those_of_exact_attention(
    kv_heads: int, seq: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "BLOCK", block)
    parts = inputs(kv_heads, seq)
    found = gradients(DenseVisibility(is_causal=True).attend, parts)
    wanted = gradients(exact, [part.double() for part in parts])
    assert len(found) == len(wanted) == 4
    for mine, true in zip(found, wanted, strict=True):
        assert mine.dtype == torch.bfloat16
        assert float((mine - true).norm() / true.norm()) < 0.01


def test_training_in_bf16_on_short_rows_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(
        "rayllm.model.layers.visibility.cpu_causal_attention", lambda q, k, v: used.append(q.dtype) or q
    )
    q, k, v = inputs()
    attend = DenseVisibility(is_causal=True).attend
    attend(q, k, v)
    attend(*(part.float().requires_grad_() for part in (q, k, v)))
    assert used == []
    attend(q.requires_grad_(), k, v)
    assert used == [torch.bfloat16]
    monkeypatch.setattr(cpu_attention, "MAX_SEQ_LEN", 19)
    attend(q, k, v)
    assert used == [torch.bfloat16]
