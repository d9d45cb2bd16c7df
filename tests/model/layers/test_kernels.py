"""Every kernel sees the same: FlexAttention as it runs on a CPU, the packed ones by an emulation of their contract."""

import itertools
import sys
import types
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as flex_attention_module
from torch import Tensor

from rayllm.core.errors import SetupError
from rayllm.model.config import ModelConfig
from rayllm.model.layers import kernels, varlen
from rayllm.model.layers.kernels import KERNELS, choose_kernel
from rayllm.model.layers.visibility import DenseVisibility, Outlook
from rayllm.model.transformer import Transformer

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DOCUMENTS = torch.tensor([[3] * 7 + [4] * 1 + [5] * 24, [0] * 20 + [9] * 12])
MODELS: dict[str, dict[str, Any]] = {
    "causal": {},
    "windows": {"window": 5, "global_every": 2},
    "alibi": {"positions": {"kind": "alibi"}},
    "alibi with windows": {"positions": {"kind": "alibi"}, "window": 4, "global_every": 9},
    "multi-head": {"num_kv_heads": 4},
}


def small(**changes: Any) -> ModelConfig:
    sizes = {"vocab_size": 61, "dim": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 40}
    return ModelConfig.model_validate({**sizes, "max_seq_len": 64, "exportable": False, **changes})


def reference_varlen(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, window_size: tuple[int, int], slopes: Tensor | None
) -> Tensor:
    """What the packed kernels promise: causal attention of each span, ``window_size[0]`` keys back."""
    groups, left = q.shape[1] // k.shape[1], window_size[0]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    parts = []
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        scores = torch.einsum("qhd,khd->hqk", q[start:stop], k[start:stop]) / q.shape[-1] ** 0.5
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        if slopes is not None:
            scores = scores - slopes[:, None, None] * distance
        hidden = (distance < 0) | ((distance > left) if left >= 0 else False)
        parts.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v[start:stop]))
    return torch.cat(parts)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Both packed kernels as modules with their real signatures, on a CPU; notes which were called."""
    called: list[str] = []

    def flash_attn_varlen_func(
        q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
        max_seqlen_k: int, *, causal: bool, window_size: tuple[int, int], alibi_slopes: Tensor | None,
    ) -> Tensor:  # fmt: skip
        called.append("flash")
        assert causal
        assert max_seqlen_q == max_seqlen_k == int(cu_seqlens_q.diff().max())
        assert cu_seqlens_q.dtype == torch.int32
        return reference_varlen(q, k, v, cu_seqlens_k, window_size, alibi_slopes)

    def varlen_attn(
        query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
        window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        called.append("varlen")
        assert window_size[1] == 0, "causal"
        assert enable_gqa == (query.shape[1] != key.shape[1])
        return reference_varlen(query, key, value, cu_seq_k, window_size, None)

    package = types.ModuleType("flash_attn")
    package.flash_attn_varlen_func = flash_attn_varlen_func  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    return called


@pytest.mark.parametrize(
    ("name", "model_name"),
    # torch's varlen_attn knows no linear biases
    [
        pair
        for pair in itertools.product(["flex", "varlen", "flash"], MODELS)
        if not ("varlen" in pair and "alibi" in pair[1])
    ],
)
@pytest.mark.parametrize("masked", [True, False])
def test_every_kernel_gives_the_losses_of_sdpa(
    name: str, model_name: str, masked: bool, emulated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # FlexAttention traces what it is given even when it is not compiled, and cannot trace the checks of shapes.
    monkeypatch.setattr(flex_attention_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    model = Transformer(small(**MODELS[model_name]))
    model.init_weights(1)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    tokens = torch.randint(61, (2, 32), generator=torch.Generator().manual_seed(5))
    doc_ids = DOCUMENTS if masked else None
    with torch.no_grad():
        expected = model(tokens, tokens, doc_ids)
        model.set_attention_kernel(KERNELS[name])
        found = model(tokens, tokens, doc_ids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    plain = not masked and model_name in ("causal", "multi-head")
    assert bool(emulated) == (name != "flex" and not plain)


def test_gradients_of_the_packed_layout_are_those_of_sdpa(emulated: list[str]) -> None:
    model = Transformer(small(window=5, global_every=2))
    model.init_weights(1)
    tokens = torch.randint(61, (2, 32), generator=torch.Generator().manual_seed(5))
    grads = []
    for name in ("sdpa", "flash"):
        model.set_attention_kernel(KERNELS[name])
        model.zero_grad()
        model(tokens, tokens, DOCUMENTS).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert emulated == ["flash", "flash"]


def test_plain_causal_rows_keep_the_fastest_kernel() -> None:
    tokens = torch.zeros(2, 32, dtype=torch.long)
    for kernel in KERNELS.values():
        assert kernel(Outlook(), 32, None, tokens) == DenseVisibility(is_causal=True)
        assert kernel(Outlook(window=32), 32, None, tokens) == DenseVisibility(is_causal=True)


def test_documents_are_laid_end_to_end_also_across_rows() -> None:
    same_id_twice = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 2]])
    found = varlen.varlen_over_rows(Outlook(window=3), varlen.flash_varlen, 2, 4, same_id_twice, CPU).spans
    assert found.bounds.tolist() == [0, 2, 4, 7, 8]
    assert (found.longest, found.window_size) == (3, (2, 0))
    assert varlen.varlen_over_rows(Outlook(), varlen.flash_varlen, 2, 4, None, CPU).spans.bounds.tolist() == [0, 4, 8]


@pytest.mark.parametrize(
    ("changes", "half", "document_mask", "flash_there", "varlen_there", "chosen"),
    [
        ({}, True, False, True, True, "sdpa"),
        ({}, True, True, True, True, "flash"),
        ({}, True, True, False, True, "varlen"),
        ({}, True, True, False, False, "flex"),
        ({}, False, True, True, True, "flex"),
        ({"positions": {"kind": "alibi"}}, True, False, False, True, "flex"),
        ({"positions": {"kind": "alibi"}}, True, True, True, True, "flash"),
        ({"window": 8, "global_every": 2}, True, False, False, True, "varlen"),
        ({"head_dim": 20}, True, True, True, True, "flex"),
        ({"head_dim": 8}, False, True, True, True, "sdpa"),
    ],
)
def test_a_gpu_gets_the_kernel_that_its_masks_need(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], half: bool, document_mask: bool,
    flash_there: bool, varlen_there: bool, chosen: str,
) -> None:  # fmt: skip
    there = {"flash_attn": flash_there, "torch.nn.attention.varlen": varlen_there}
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: there.get(name) or None)
    found = choose_kernel("auto", CUDA, small(**changes), half=half, document_mask=document_mask)
    assert found.name == chosen
    assert found.why
    assert found.kernel is KERNELS[chosen]


def test_a_cpu_has_sdpa_and_refuses_the_others_by_name() -> None:
    found = choose_kernel("auto", CPU, small(), half=True, document_mask=True)
    assert (found.name, found.why) == ("sdpa", "the CPU has no other")
    assert choose_kernel("sdpa", CPU, small(), half=True, document_mask=True).why == "asked for"
    for name in ("flex", "varlen", "flash"):
        with pytest.raises(SetupError, match=rf"by {name}[\s\S]*the device is cpu[\s\S]*train\.attention=auto"):
            choose_kernel(name, CPU, small(), half=True, document_mask=True)


def test_an_old_varlen_without_windows_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda query, is_causal: query)
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: name != "flash_attn" or None)
    assert choose_kernel("auto", CUDA, small(), half=True, document_mask=True).name == "flex"
