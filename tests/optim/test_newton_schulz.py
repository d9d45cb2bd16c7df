from dataclasses import replace

import numpy as np
import pytest
import torch
from figures import Tell
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim._muon import _zeropower_via_newtonschulz
from torch.utils.flop_counter import FlopCounterMode

from rayllm.optim import newton_schulz
from rayllm.optim.newton_schulz import (
    CHUNK_ELEMENTS,
    EPS,
    METHODS,
    Method,
    Polynomial,
    orthogonalize_,
    plan_steps,
    resolve_dtype,
)

JORDAN, POLAR = METHODS["jordan"], METHODS["polar_express"]
SINGLY = replace(POLAR, fold=False)
SHAPES = [(64, 256), (128, 384), (384, 1024), (1024, 384), (128, 128)]
SPECTRA = {
    "white noise": None,
    "i^-1/2": lambda i: i**-0.5,
    "1 / i": lambda i: 1 / i,
    "rank 8": lambda i: (i <= 8).double(),
}


def apply(method: Method, steps: int, values: Tensor) -> Tensor:
    """What the iteration makes of singular values."""
    for step in range(steps):
        a, b, c = method.polynomials[min(step, len(method.polynomials) - 1)]
        values = a * values + b * values**3 + c * values**5
    return values


def normed(method: Method, values: Tensor) -> Tensor:
    """Singular values in the norm of a method."""
    order = {"frobenius": 2, "schatten4": 4}[method.norm]
    return values / torch.linalg.vector_norm(values, order, dim=-1, keepdim=True)


def with_spectrum(values: Tensor, rows: int, cols: int, count: int = 3) -> Tensor:
    """Matrices with these singular values and random singular vectors, in float64."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(count, rows, cols, dtype=torch.float64, generator=generator)
    left, _, right = torch.linalg.svd(normal, full_matrices=False)
    return left * values @ right


def of_spectrum(name: str, rows: int, cols: int) -> Tensor:
    """Matrices with one of ``SPECTRA``, in float64."""
    spectrum = SPECTRA[name]
    if spectrum is None:
        return torch.randn(3, rows, cols, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return with_spectrum(spectrum(torch.arange(1, min(rows, cols) + 1, dtype=torch.float64)), rows, cols)


def exactly(method: Method, stack: Tensor) -> Tensor:
    """The iteration by singular values, in float64."""
    left, values, right = torch.linalg.svd(stack.double(), full_matrices=False)
    return left * apply(method, method.steps, normed(method, values))[:, None] @ right


def inside(found: Tensor, exact: Tensor, least: float = EPS) -> Tensor:
    """What lies where the exact matrix has a rank: in bf16, rounding fills the other directions with noise.

    Or where its singular values, normed as Polar Express does, are larger than ``least``.
    """
    left, values, right = torch.linalg.svd(exact, full_matrices=False)
    return left @ (left.mT @ found.double() @ right.mT * (normed(POLAR, values) > least)[:, None]) @ right


def error(found: Tensor, exact: Tensor) -> float:
    """Relative, all matrices together."""
    return float((found - exact).norm() / exact.norm())


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    cols=st.integers(1, 40),
    count=st.integers(1, 4),
    scale=st.sampled_from([1e-5, 1.0, 1e8]),
    method=st.sampled_from([JORDAN, POLAR]),
)
def test_singular_vectors_stay_and_singular_values_become_about_one(
    rows: int, cols: int, count: int, scale: float, method: Method
) -> None:
    generator = torch.Generator().manual_seed(rows * 41 + cols)
    left, _, right = torch.linalg.svd(torch.randn(count, rows, cols, generator=generator), full_matrices=False)
    values = torch.linspace(1.0, 0.2, min(rows, cols)) * scale
    found = left @ torch.diag(values) @ right
    orthogonalize_(found, method)
    inner = left.mT @ found @ right.mT  # diagonal, if the singular vectors are the same
    diagonal = inner.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(inner, torch.diag_embed(diagonal), atol=1e-3)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16), (64, 256)])
def test_jordans_method_in_bf16_is_what_torch_makes_of_each_matrix(shape: tuple[int, int]) -> None:
    stack = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    found = stack.bfloat16()
    orthogonalize_(found, JORDAN)
    for mine, matrix in zip(found, stack, strict=True):
        theirs = _zeropower_via_newtonschulz(matrix, JORDAN.polynomials[0], JORDAN.steps, EPS)
        torch.testing.assert_close(mine.float(), theirs.float(), rtol=0.02, atol=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_a_matrix_of_zeros_stays_zero(method: str) -> None:
    zeros = torch.zeros(2, 64, 256)
    orthogonalize_(zeros, METHODS[method])
    assert not zeros.any()


@pytest.mark.parametrize("method", [JORDAN, POLAR, SINGLY], ids=["jordan", "polar_express", "singly"])
@pytest.mark.parametrize("steps", [None, 1, 2, 3, 5, 6, 9])
@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (64, 64), (64, 192), (192, 64)])
def test_each_step_is_a_polynomial_of_the_singular_values_and_the_scale_a_factor(
    shape: tuple[int, int], steps: int | None, method: Method
) -> None:
    matrix = 3 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    values = apply(method, steps or method.steps, normed(method, values))
    orthogonalize_(matrix, method, steps, scale=0.3)
    torch.testing.assert_close(matrix, 0.3 * left @ torch.diag_embed(values) @ right, rtol=1e-9, atol=1e-9)


def minimax(degree: int, low: float, high: float) -> Polynomial:
    """The odd polynomial of degree 3 or 5 nearest to one on an interval, by exchanging its extremes (Remez)."""
    powers = range(1, degree + 1, 2)
    at = np.linspace(low, high, len(powers) + 1)
    coefficients = np.zeros(3)
    for _ in range(50):
        system = np.stack([*(at**power for power in powers), (-1.0) ** np.arange(len(at))], axis=1)
        coefficients[: len(powers)] = np.linalg.solve(system, np.ones(len(at)))[:-1]
        a, b, c = coefficients
        at[1:-1] = np.sqrt(np.sort(np.roots([5 * c, 3 * b, a] if c else [3 * b, a]).real))
    return float(coefficients[0]), float(coefficients[1]), float(coefficients[2])


def test_polynomials_are_the_nearest_to_one_on_what_those_before_leave() -> None:
    low, high = 0.005, 1.0
    margins, degrees = (1.01394, 1.02185, 1.10174, 1.01945, 1.01733, 1.01701), (5, 5, 3, 5, 5, 5)
    for found, degree, margin in zip(POLAR.polynomials, degrees, margins, strict=True):
        expected = minimax(degree, low, high * margin)
        assert found == pytest.approx(expected, abs=1e-3)
        a, b, c = expected
        low = a * low + b * low**3 + c * low**5
        high = 2 - low


def test_what_goes_onto_a_diagonal_is_exact_in_bf16() -> None:
    for method in METHODS.values():
        for a, _, _ in method.polynomials:
            assert not method.fold or float(torch.tensor(a).bfloat16()) == a


@pytest.mark.parametrize(
    ("steps", "short", "long", "lengths"),
    [
        (4, 384, 384, [1, 1, 1, 1]),
        (4, 384, 755, [1, 1, 1, 1]),  # 90 % of the products
        (4, 384, 757, [2, 2]),
        (4, 64, 256, [2, 2]),
        (4, 63, 256, [1, 1, 1, 1]),
        (1, 128, 4096, [1]),
        (2, 128, 512, [2]),
        (3, 128, 512, [2, 1]),
        (5, 128, 512, [2, 1, 2]),
        (6, 128, 512, [2, 1, 1, 2]),
        (20, 128, 512, [1] * 20),  # 94 %
    ],
)
def test_pairs_are_first_and_last_and_only_where_they_save_a_tenth(
    steps: int, short: int, long: int, lengths: list[int]
) -> None:
    plan = plan_steps(POLAR, steps, short, long)
    assert [len(quintics) for quintics in plan] == lengths
    applied = [quintic for quintics in plan for quintic in quintics]
    assert applied == [*POLAR.polynomials, *[POLAR.polynomials[-1]] * steps][:steps]
    assert plan_steps(JORDAN, steps, short, long) == [(JORDAN.polynomials[0],)] * steps


@pytest.mark.parametrize(("long", "products"), [(64, 4 * 3 - 1), (192, 2 * 11 - 1), (512, 2 * 21 - 1)])
def test_products_are_as_many_as_counted(long: int, products: int) -> None:
    # 2 r + 1 a step, 2 r + 5 a pair, and the third step is a cubic.
    with FlopCounterMode(display=False) as counter:
        orthogonalize_(torch.randn(2, 64, long), POLAR)
    assert counter.get_total_flops() == 2 * 2 * products * 64**3


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_four_steps_in_bf16_end_within_a_fifth_of_the_orthogonal_factor_on_what_begins_above_0_005(
    spectrum: str, shape: tuple[int, int], tell: Tell
) -> None:
    exact = of_spectrum(spectrum, *shape)
    left, _, right = torch.linalg.svd(exact, full_matrices=False)
    gaps, above = {}, {}
    for name, method in METHODS.items():
        found = exact.bfloat16()
        orthogonalize_(found, method)
        gaps[name], above[name] = (
            error(inside(found, exact, least), inside(left @ right, exact, least)) for least in (EPS, 0.005)
        )
    tell(
        "distance to the orthogonal factor, bf16",
        spectrum=spectrum,
        shape=f"{shape[0]} x {shape[1]}",
        polar_express_4=f"{gaps['polar_express']:.3f}",
        jordan_5=f"{gaps['jordan']:.3f}",
    )
    assert above["polar_express"] < 0.2


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_in_bf16_it_is_the_iteration_up_to_rounding(spectrum: str, shape: tuple[int, int]) -> None:
    exact = of_spectrum(spectrum, *shape)
    stack = exact.bfloat16()
    orthogonalize_(stack, POLAR)
    assert error(inside(stack, exact), exactly(POLAR, exact)) < 0.04


@pytest.mark.parametrize(("steps", "largest"), [(2, 1.95), (3, 1.71), (4, 1.26), (5, 1.03), (8, 1.02)])
@pytest.mark.parametrize("shape", [(64, 64), (64, 256), (256, 64), (128, 384)])
def test_in_bf16_no_singular_value_escapes(shape: tuple[int, int], steps: int, largest: float) -> None:
    # A few large singular values over noise: the largest possible ones, and eigenvalues that rounding makes negative.
    index = torch.arange(min(shape))
    spectra = [
        torch.where(index < large, 1.0, rest)
        for large in (1, 2, 4, 8, 32, 48)
        for rest in (0.0, 1e-4, 1e-3, 0.003, 0.01, 0.02, 0.06, 0.1, 0.2, 0.4)
    ]
    stack = torch.cat([with_spectrum(spectrum.double(), *shape, count=2) for spectrum in spectra]).bfloat16()
    orthogonalize_(stack, POLAR, steps)
    assert torch.linalg.svdvals(stack.float()).max() < largest


def test_large_stacks_are_worked_on_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = torch.randn(7, 8, 12, generator=torch.Generator().manual_seed(0))
    chunked = stack.clone()
    orthogonalize_(stack, POLAR)
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 200)
    orthogonalize_(chunked, POLAR)
    torch.testing.assert_close(chunked, stack)


def test_a_dtype_that_is_asked_for_is_obeyed_and_auto_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert (resolve_dtype("fp32", cpu), resolve_dtype("bf16", cpu)) == (torch.float32, torch.bfloat16)
    for amx, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(newton_schulz, "multiplies_bf16", lambda amx=amx: amx)
        assert resolve_dtype("auto", cpu) == expected
