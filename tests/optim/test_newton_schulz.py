import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim._muon import _zeropower_via_newtonschulz

from rayllm.optim import newton_schulz
from rayllm.optim.newton_schulz import CHUNK_ELEMENTS, COEFFICIENTS, EPS, orthogonalize_, resolve_dtype


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40), cols=st.integers(1, 40), count=st.integers(1, 4), scale=st.sampled_from([1e-4, 1.0, 1e4])
)
def test_singular_vectors_stay_and_singular_values_become_about_one(
    rows: int, cols: int, count: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(rows * 41 + cols)
    left, _, right = torch.linalg.svd(torch.randn(count, rows, cols, generator=generator), full_matrices=False)
    values = torch.linspace(1.0, 0.2, min(rows, cols)) * scale
    found = left @ torch.diag(values) @ right
    orthogonalize_(found)
    inner = left.mT @ found @ right.mT  # diagonal, if the singular vectors are the same
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(inner, torch.diag_embed(diagonal), atol=1e-3)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16)])
def test_a_stack_in_bf16_is_what_torch_makes_of_each_matrix(shape: tuple[int, int]) -> None:
    stack = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    found = stack.bfloat16()
    orthogonalize_(found)
    for mine, matrix in zip(found, stack, strict=True):
        theirs = _zeropower_via_newtonschulz(matrix, COEFFICIENTS, 5, EPS)
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=0.02, atol=0.01)


def test_a_matrix_of_zeros_stays_zero() -> None:
    zeros = torch.zeros(2, 4, 4)
    orthogonalize_(zeros)
    assert not zeros.any()


@pytest.mark.parametrize("steps", [1, 4, 5])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_each_step_is_the_quintic_of_the_singular_values_and_the_scale_a_factor(
    steps: int, shape: tuple[int, int]
) -> None:
    matrix = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        values = a * values + b * values**3 + c * values**5
    orthogonalize_(matrix, steps, scale=0.3)
    torch.testing.assert_close(matrix, 0.3 * left @ torch.diag_embed(values) @ right, rtol=1e-9, atol=1e-9)


def test_large_stacks_are_worked_on_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = torch.randn(7, 8, 12, generator=torch.Generator().manual_seed(0))
    chunked = stack.clone()
    orthogonalize_(stack)
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 200)
    orthogonalize_(chunked)
    torch.testing.assert_close(chunked, stack)


def test_a_dtype_that_is_asked_for_is_obeyed_and_auto_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert (resolve_dtype("fp32", cpu), resolve_dtype("bf16", cpu)) == (torch.float32, torch.bfloat16)
    for amx, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(newton_schulz, "multiplies_bf16", lambda amx=amx: amx)
        assert resolve_dtype("auto", cpu) == expected
