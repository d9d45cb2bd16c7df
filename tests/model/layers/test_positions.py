import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayllm.model.layers.positions import RotaryTable, Rotation, apply_rope, rotation_table, scale_frequencies
from rayllm.model.position_config import NTKScaling, RopePositions

CPU = torch.device("cpu")


def rotate(x: torch.Tensor, position: int, theta: float = 10_000.0) -> torch.Tensor:
    table = rotation_table(x.shape[-1], position + 1, RopePositions(theta=theta), CPU)
    return apply_rope(x.view(1, 1, 1, -1), Rotation(table.cos[position:], table.sin[position:])).flatten()


def test_by_hand() -> None:
    found = rotate(torch.tensor([1.0, 2.0, 3.0, 4.0]), position=2, theta=100.0)
    slow = 2 / 10  # the second pair turns theta ** (-1/2) as fast
    expected = [
        1 * math.cos(2) - 3 * math.sin(2),
        2 * math.cos(slow) - 4 * math.sin(slow),
        3 * math.cos(2) + 1 * math.sin(2),
        4 * math.cos(slow) + 2 * math.sin(slow),
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 100))
def test_products_depend_only_on_the_distance(first: int, second: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(16, generator=generator), torch.randn(16, generator=generator)
    here = rotate(q, first) @ rotate(k, second)
    there = rotate(q, first + shift) @ rotate(k, second + shift)
    torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("head_dim", "factor"), [(4, 3.0), (16, 4.0), (128, 8.0)])
def test_ntk_stretches_the_slowest_wavelength_by_the_factor_and_leaves_the_fastest(
    head_dim: int, factor: float
) -> None:
    theta, half = 10_000.0, head_dim // 2
    found = scale_frequencies(NTKScaling(factor=factor), theta, head_dim, CPU).tolist()
    assert found[0] == 1
    assert found[-1] == pytest.approx(theta ** (-(head_dim - 2) / head_dim) / factor, rel=1e-5)
    # Between them, each wavelength grows by a power of the factor that goes evenly from 0 to 1.
    expected = [theta ** (-2 * i / head_dim) / factor ** (i / (half - 1)) for i in range(half)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_lengths_stay() -> None:
    x = torch.randn(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotate(x, 77).norm(), x.norm())


def test_half_precision_is_turned_in_float32() -> None:
    x = torch.randn(1, 300, 2, 16, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    rotation = rotation_table(16, 300, RopePositions(), CPU)
    assert torch.equal(apply_rope(x, rotation), apply_rope(x.float(), rotation).to(torch.bfloat16))


def test_given_positions_are_looked_up_for_each_row() -> None:
    table = RotaryTable(8, 20, RopePositions())
    plain = table(20, None, CPU)
    found = table(2, torch.tensor([[3, 4], [0, 19]]), CPU)
    assert torch.equal(found.cos, torch.stack([plain.cos[3:5], plain.cos[[0, 19]]]))


@pytest.mark.parametrize("positions", [None, torch.tensor([[0, 1]])])
def test_the_table_is_made_once(positions: torch.Tensor | None) -> None:
    table = RotaryTable(8, 20, RopePositions())
    table(2, positions, CPU)
    first = table._table
    table(2, positions, CPU)
    assert table._table is first
