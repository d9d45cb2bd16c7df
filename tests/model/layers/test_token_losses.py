"""The loss whose gradient is made in forward gives what cross-entropy over the logits gives."""

import pytest
import torch
import torch.nn.functional as F

from rayllm.model.config import IGNORE_INDEX
from rayllm.model.layers import token_losses as module
from rayllm.model.layers.token_losses import LossSettings, Scratch, logits_of, softmax_losses_, token_losses

ROWS, WIDTH, VOCAB = 23, 8, 40


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(ROWS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCAB, WIDTH, generator=generator).requires_grad_()
    targets = torch.randint(VOCAB, (ROWS,), generator=generator)
    targets[[0, 5, 22]] = IGNORE_INDEX
    return rows, weight, targets


def by_formula(rows: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, settings: LossSettings) -> torch.Tensor:
    logits = logits_of(rows, weight, settings.softcap)
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="none")
    return losses + settings.z_loss * logits.logsumexp(-1).square() * (targets != IGNORE_INDEX)


def pull(kind: str, losses: torch.Tensor) -> torch.Tensor:
    """Objectives whose gradient is one number for all tokens, and one that weighs tokens."""
    return {"sum": losses.sum() / 7, "mean": losses.view(1, -1).mean(), "weighted": losses @ torch.rand(ROWS)}[kind]


@pytest.mark.parametrize("kind", ["sum", "mean", "weighted"])
@pytest.mark.parametrize("chunk", [4096, 23, 5])
@pytest.mark.parametrize(("softcap", "z_loss"), [(None, 0.0), (3.0, 0.0), (None, 0.01), (3.0, 0.01)])
def test_losses_and_gradients_are_those_of_cross_entropy(
    kind: str, chunk: int, softcap: float | None, z_loss: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.SOFTMAX_ELEMENTS, "cpu", 3 * VOCAB)
    rows, weight, targets = inputs()
    settings = LossSettings(softcap, z_loss, chunk)
    found, expected = token_losses(rows, weight, targets, settings), by_formula(rows, weight, targets, settings)
    torch.testing.assert_close(found, expected)
    torch.manual_seed(1)
    ours = torch.autograd.grad(pull(kind, found), (rows, weight))
    torch.manual_seed(1)
    theirs = torch.autograd.grad(pull(kind, expected), (rows, weight))
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        assert torch.equal(token_losses(rows, weight, targets, settings), found)


def test_the_gradient_is_made_once_and_only_scaled_for_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    settings = LossSettings(kernel=lambda *args: calls.append(1) or softmax_losses_(*args))
    rows, weight, targets = inputs()
    token_losses(rows, weight, targets, settings).sum().backward()
    assert len(calls) == 1
    token_losses(rows, weight, targets, settings).dot(torch.rand(ROWS)).backward()
    assert len(calls) == 3


def test_backward_may_be_asked_for_twice() -> None:
    rows, weight, targets = inputs()
    loss = token_losses(rows, weight, targets).sum()
    first = torch.autograd.grad(loss, (rows, weight), retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, (rows, weight)), first)


def test_a_matrix_that_is_not_trained_gets_no_gradient() -> None:
    rows, weight, targets = inputs()
    token_losses(rows, weight.detach(), targets).sum().backward()
    assert rows.grad is not None
    token_losses(rows.detach(), weight, targets).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("objective", ["sum", "weighted"])
def test_in_bf16_the_softmax_is_exact_and_gradients_have_the_digits_of_bf16(objective: str) -> None:
    rows, weight, targets = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        found = token_losses(rows, weight, targets)
    exact = by_formula(rows.bfloat16(), weight.bfloat16(), targets, LossSettings())
    torch.testing.assert_close(found, exact)
    assert found.dtype == torch.float32
    torch.manual_seed(1)
    ours = torch.autograd.grad(pull(objective, found) * 1e-4, (rows, weight))
    torch.manual_seed(1)
    wanted = by_formula(rows, weight, targets, LossSettings())
    theirs = torch.autograd.grad(pull(objective, wanted) * 1e-4, (rows, weight))
    for mine, true in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        assert float((mine - true).norm() / true.norm()) < 0.01


def test_gradients_are_none_where_no_label_counts() -> None:
    rows, weight, targets = inputs()
    losses = token_losses(rows, weight, torch.full_like(targets, IGNORE_INDEX))
    losses.sum().backward()
    assert not losses.any()
    assert rows.grad is not None
    assert not rows.grad.any()
    assert weight.grad is not None
    assert not weight.grad.any()


def test_memory_is_kept_from_one_step_to_the_next() -> None:
    scratch, like = Scratch(), torch.empty(0)
    first = scratch.take("logits", (6, 4), like)
    assert scratch.take("logits", (5, 4), like).data_ptr() == first.data_ptr()
    assert scratch.take("product", (5, 4), like).data_ptr() != first.data_ptr()
    assert scratch.take("logits", (7, 4), like).shape == (7, 4)
    assert scratch.take("logits", (2, 4), like.bfloat16()).dtype == torch.bfloat16


def test_what_is_very_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCRATCH_BYTES", 64)
    scratch, like = Scratch(), torch.empty(0)
    kept, large = scratch.take("logits", (4, 4), like), scratch.take("logits", (5, 4), like)
    assert large.data_ptr() != scratch.take("logits", (5, 4), like).data_ptr()
    assert scratch.take("logits", (4, 4), like).data_ptr() == kept.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_after_others_is_that_of_fresh_memory(dtype: torch.dtype) -> None:
    settings = LossSettings(softcap=3.0, chunk_tokens=9)
    rows, weight, targets = inputs(dtype)
    with torch.inference_mode():  # validation comes first, and makes the memory
        token_losses(rows, weight, targets, settings)
    token_losses(rows[:7] * 2, weight, targets[:7], settings).sum().backward()
    kept = [
        part.clone()
        for part in torch.autograd.grad(token_losses(rows, weight, targets, settings).sum(), (rows, weight))
    ]
    token_losses(rows * 3, weight, targets, settings).sum().backward()
    fresh = torch.autograd.grad(
        token_losses(rows, weight, targets, LossSettings(softcap=3.0, chunk_tokens=9)).sum(), (rows, weight)
    )
    assert all(map(torch.equal, kept, fresh))
