"""Orthogonalise matrices: many of one shape at a time, in place, with matrix products only.

Each step multiplies a matrix by a polynomial of its Gram matrix, an odd quintic of the singular values. Two steps
become one where that takes fewer products: their joint polynomial is made from small square matrices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rayllm.core.cpu import multiplies_bf16

EPS = 1e-7
#: Elements that are worked on at once, by kind of device: bounds the memory of the products between. On a CPU they
#: should stay in its cache (7 square matrices of width 384 at once take two thirds of the time of 32).
CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
#: Pairs pay from this shorter side on, and this share of a step's products saved: they also add square matrices.
LEAST_SIDE, LEAST_SAVED_FRAC = 64, 0.1

Stack = Float[Tensor, "count rows cols"]
Square = Float[Tensor, "count side side"]
#: a, b and c of ``a x + b x^3 + c x^5``.
Quintic = tuple[float, float, float]


@dataclass(frozen=True)
class Method:
    """An iteration that drives singular values of at most one towards one.

    Attributes:
        quintics: One for each step; the last is repeated.
        steps: As many as it usually takes.
        norm: What singular values are divided by, to be at most one: the matrix's norm, or the root of its Gram
            matrix's, which is nearer to the largest one and costs next to nothing (Grishina, Smirnov and Rakhuba 2025,
            Accelerating Newton-Schulz Iteration for Orthogonalization via Chebyshev-type Polynomials,
            arXiv:2506.10935, section 3.4).
        pairs: Whether two steps may become one, which rounds otherwise.
    """

    quintics: tuple[Quintic, ...]
    steps: int
    norm: Literal["frobenius", "schatten4"]
    pairs: bool


METHODS = {
    # Each quintic is as near to one as can be on what those before leave of singular values from 0.003 to 1 (Amsel,
    # Persson, Musco and Gower 2025, The Polar Express, arXiv:2505.16932, section 3). Beyond its interval it is steep,
    # and rounding in bf16 leads there: so intervals end higher by 1, 2, 10, 2, 2 and 2 %, by 10 where a pair has ended.
    "polar_express": Method(
        (
            (8.3019, -24.0424, 17.4699),
            (3.9709, -2.8437, 0.5169),
            (3.2658, -2.0395, 0.3376),
            (2.5502, -1.8272, 0.4107),
            (1.9205, -1.2769, 0.3597),
            (1.8567, -1.2133, 0.3567),
        ),
        steps=4,
        norm="schatten4",
        pairs=True,
    ),
    # Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks, section "Newton-Schulz"; torch's.
    "jordan": Method(((3.4445, -4.7750, 2.0315),), steps=5, norm="frobenius", pairs=False),
}


@torch.no_grad()
def orthogonalize_(stack: Stack, method: Method, steps: int | None = None, scale: float = 1.0) -> None:
    """Make of each matrix the nearest orthogonal one, roughly: singular vectors stay, singular values become about one.

    Args:
        stack: Of any scale; overwritten; the products are computed in its dtype.
        method: One of ``METHODS``.
        steps: Of the iteration; None: as many as are usual with the method.
        scale: What the results are multiplied by.
    """
    if not stack.numel():
        return
    per_chunk = max(1, CHUNK_ELEMENTS[stack.device.type] // stack[0].numel())
    spare = torch.empty_like(stack[:per_chunk])
    short, long = sorted(stack.shape[1:])
    plan = plan_steps(method, steps or method.steps, short, long)
    squares = [spare.new_empty(len(spare), short, short) for _ in range(1 + max(map(len, plan)))]
    for chunk in stack.split(per_chunk):
        count = len(chunk)
        _iterate(chunk, spare[:count], [square[:count] for square in squares], plan, scale, method.norm)


def plan_steps(method: Method, steps: int, short: int, long: int) -> list[tuple[Quintic, ...]]:
    """The quintics that are applied at once, one or two: of four steps both halves, of more the first and the last two.

    With ``r = long / short`` a step takes ``2 r + 1`` times ``short^3``: Gram matrix, its square, product with the
    matrix. A pair takes ``2 r + 5``: in place of a second Gram matrix and product, two for the next Gram matrix, one
    for its square and one for the joint polynomial (Zhang, Amsel, Chen and Dao 2026, Gram Newton-Schulz: A Fast,
    Hardware-Aware Newton-Schulz Algorithm for Muon, https://dao-ailab.github.io/blog/2026/gram-newton-schulz/).

    Never three at once, and no pair amid others: a rounded Gram matrix has eigenvalues below zero, which a second step
    on it magnifies and a third blows up. In the first pair they are ten times too small for harm, and after the last
    one nothing follows.

    Args:
        method: Whose quintics.
        steps: Of the iteration.
        short: Shorter side of the matrices.
        long: Longer side.
    """
    quintics = [method.quintics[min(step, len(method.quintics) - 1)] for step in range(steps)]
    pairs, ratio = min(2, steps // 2), long / short
    saved_frac = pairs * (2 * ratio - 3) / (steps * (2 * ratio + 1))
    if not method.pairs or short < LEAST_SIDE or saved_frac < LEAST_SAVED_FRAC:
        return [(quintic,) for quintic in quintics]
    last = steps - 2 * (pairs - 1)
    between = [(quintic,) for quintic in quintics[2:last]]
    return [tuple(quintics[:2]), *between, *([tuple(quintics[last:])] if pairs == 2 else [])]


def _iterate(
    x: Stack, spare: Stack, squares: Sequence[Square], plan: Sequence[Sequence[Quintic]], scale: float, norm: str
) -> None:
    """``X <- (q I + Q) X``, the polynomial one of ``X X^T``; of ``X^T X``, from the right, if X is tall.

    It goes to and fro between two buffers, and begins so that the last result lies in ``x``.
    """
    tall = x.shape[-2] > x.shape[-1]
    gram, *others = squares
    here, there = (spare, x) if len(plan) % 2 else (x, spare)
    torch.div(x, _norms(x), out=here)
    for index, quintics in enumerate(plan):
        left, right = (here.mT, here) if tall else (here, here.mT)
        torch.bmm(left, right, out=gram)
        if index == 0 and norm == "schatten4":
            norms = _norms(gram)
            gram.div_(norms)
            here.div_(norms.sqrt_())
        multiple, matrix = _joint(gram, quintics, others) if len(quintics) == 2 else _single(gram, quintics[0], others)
        factor = scale if index == len(plan) - 1 else 1.0
        left, right = (here, matrix) if tall else (matrix, here)
        torch.baddbmm(here, left, right, beta=factor * multiple, alpha=factor, out=there)
        here, there = there, here


def _norms(stack: Stack) -> Float[Tensor, "count 1 1"]:
    return torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True).clamp_min_(EPS)


def _single(gram: Square, quintic: Quintic, spare: Sequence[Square]) -> tuple[float, Square]:
    """q and Q of a step. They stay apart: on the diagonal q would cost Q its last bits in bf16."""
    a, b, c = quintic
    return a, torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=spare[0])


def _joint(gram: Square, quintics: Sequence[Quintic], spare: Sequence[Square]) -> tuple[float, Square]:
    """The same for two steps; the Gram matrix is overwritten.

    The first, ``F = a I + P``, leaves the Gram matrix ``F G F``. All are polynomials of G, so they commute.
    """
    first, second = spare
    (a, _, _), (next_a, next_b, next_c) = quintics
    _single(gram, quintics[0], spare)
    torch.baddbmm(gram, first, gram, beta=a, out=second)
    torch.baddbmm(second, first, second, beta=a, out=gram)
    torch.baddbmm(gram, gram, gram, beta=next_b, alpha=next_c, out=second)
    torch.baddbmm(first, second, first, beta=next_a, out=gram)
    return a * next_a, gram.add_(second, alpha=a)


def resolve_dtype(asked: str, device: torch.device) -> torch.dtype:
    """What to orthogonalise in: bf16 is several times as fast on hardware that multiplies it, and good enough.

    Args:
        asked: ``fp32``, ``bf16`` or ``auto``.
        device: Where the matrices are.
    """
    if asked != "auto":
        return torch.bfloat16 if asked == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16 if multiplies_bf16() else torch.float32
