import math

import torch

from rayllm.optim.adamw import build_adamw, param_groups
from rayllm.optim.config import OptimizerConfig


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))


def _backward(model: torch.nn.Module, scale: float = 1.0) -> None:
    (model(torch.ones(5, 3)).square().sum() * scale).backward()


def test_matrices_decay_and_vectors_do_not() -> None:
    groups = param_groups(_model().named_parameters(), 0.1)
    assert [(group["weight_decay"], {p.ndim for p in group["params"]}) for group in groups] == [(0.1, {2}), (0.0, {1})]


def test_step_equals_torch_with_its_clipping() -> None:
    ours, theirs = _model(), _model()
    config = OptimizerConfig(lr=1e-2, grad_clip=0.5, weight_decay=0.1)
    optimizer = build_adamw(ours.named_parameters(), config)
    optimizer.max_norm = 0.5
    reference = torch.optim.AdamW(
        param_groups(theirs.named_parameters(), 0.1), lr=1e-2, betas=config.betas, eps=config.eps
    )
    for _ in range(3):
        _backward(ours)
        _backward(theirs)
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        reference.step()
        assert math.isclose(optimizer.last_norm, float(norm), rel_tol=1e-5)
        optimizer.zero_grad()
        reference.zero_grad()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = _model()
    optimizer = build_adamw(model.named_parameters(), OptimizerConfig())
    optimizer.max_norm = 1.0
    before = [parameter.clone() for parameter in model.parameters()]
    _backward(model, math.inf)
    optimizer.step()
    assert not optimizer.applied
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
