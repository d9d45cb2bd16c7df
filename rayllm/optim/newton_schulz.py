"""Orthogonalise matrices: many of one shape at a time, in place, with matrix products only.

Each step multiplies a matrix by a polynomial of its Gram matrix, an odd quintic or cubic of the singular values. Two
steps become one where that takes fewer products: their joint polynomial is made from small square matrices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from rayllm.core.cpu import multiplies_bf16

EPS = 1e-7
#: Elements that are worked on at once, by kind of device: bounds the memory of the products between. On a CPU they
#: should stay in its cache, with four matrices or more to a product: 8 square ones of width 384 at once take 0.97 of
#: the time of 16, four of 1024 x 384 take 0.98 of that of two.
CHUNK_ELEMENTS = {"cpu": 3 * 2**19, "cuda": 2**26}
#: Pairs pay from this shorter side on, and this share of a step's products saved: they also add square matrices.
LEAST_SIDE, LEAST_SAVED_FRAC = 64, 0.1

Stack = Float[Tensor, "count rows cols"]
Square = Float[Tensor, "count side side"]
#: a, b and c of ``a x + b x^3 + c x^5``, a quintic, or a cubic if c is 0.
Polynomial = tuple[float, float, float]


@dataclass(frozen=True)
class Method:
    """An iteration that drives singular values of at most one towards one.

    Attributes:
        polynomials: One for each step; the last is repeated.
        steps: As many as it usually takes.
        norm: What singular values are divided by, to be at most one: the matrix's norm, or the root of its Gram
            matrix's, which is nearer to the largest one and costs next to nothing (Grishina, Smirnov and Rakhuba 2025,
            Accelerating Newton-Schulz Iteration for Orthogonalization via Chebyshev-type Polynomials,
            arXiv:2506.10935, section 3.4).
        fold: Whether a step's ``a`` goes onto the diagonal of its matrix, which saves a pass over the result and lets
            two steps become one, and rounds otherwise. It must be exact in bf16: on a diagonal of little else it would
            be rounded everywhere alike, which shifts all singular values.
    """

    polynomials: tuple[Polynomial, ...]
    steps: int
    norm: Literal["frobenius", "schatten4"]
    fold: bool


METHODS = {
    # Each polynomial is as near to one as can be on what those before leave of singular values from 0.005 to 1 (Amsel,
    # Persson, Musco and Gower 2025, The Polar Express, arXiv:2505.16932, section 3). The third is a cubic: with a
    # quintic there, one product more, it could begin at 0.003. Beyond its interval each is steep, and rounding in bf16
    # leads there: so intervals end higher by 1.4, 2, 10, 2, 2 and 2 %, as makes ``a`` exact in bf16; by 10 where a
    # pair has ended.
    "polar_express": Method(
        (
            (8.1875, -23.4479, 16.8893),
            (3.84375, -2.7485, 0.5038),
            (2.0625, -0.4618, 0.0),
            (2.546875, -1.8261, 0.4113),
            (1.921875, -1.2814, 0.3625),
            (1.859375, -1.2187, 0.3593),
        ),
        steps=4,
        norm="schatten4",
        fold=True,
    ),
    # Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks, section "Newton-Schulz"; torch's.
    "jordan": Method(((3.4445, -4.7750, 2.0315),), steps=5, norm="frobenius", fold=False),
}


@torch.no_grad()
def orthogonalize_(stack: Stack, method: Method, steps: int | None = None, scale: float = 1.0) -> None:
    """Make of each matrix the nearest orthogonal one, roughly: singular vectors stay, singular values become about one.

    Args:
        stack: Of norms up to 1e9; overwritten; the products are computed in its dtype.
        method: One of ``METHODS``.
        steps: Of the iteration; None: as many as are usual with the method.
        scale: What the results are multiplied by.
    """
    if not stack.numel():
        return
    chunks = stack.chunk(math.ceil(len(stack) / max(1, CHUNK_ELEMENTS[stack.device.type] // stack[0].numel())))
    spare = torch.empty_like(chunks[0])
    short, long = sorted(stack.shape[1:])
    plan = plan_steps(method, steps or method.steps, short, long)
    squares = [spare.new_empty(len(spare), short, short) for _ in range(1 + max(map(len, plan)))]
    for chunk in chunks:
        count = len(chunk)
        _iterate(chunk, spare[:count], [square[:count] for square in squares], plan, method, scale)


def plan_steps(method: Method, steps: int, short: int, long: int) -> list[tuple[Polynomial, ...]]:
    """What is applied at once, one step or two: of four steps both halves, of more the first and the last two.

    With ``r = long / short`` a step takes ``2 r + 1`` times ``short^3``: Gram matrix, its square, product with the
    matrix; a cubic one less. A pair takes ``2 r + 5``: in place of a second Gram matrix and product, two for the next
    Gram matrix, one for its square and one for the joint polynomial (Zhang, Amsel, Chen and Dao 2026, Gram
    Newton-Schulz: A Fast, Hardware-Aware Newton-Schulz Algorithm for Muon,
    https://dao-ailab.github.io/blog/2026/gram-newton-schulz/).

    Never three at once, and no pair amid others: a rounded Gram matrix has eigenvalues below zero, which a second step
    on it magnifies and a third blows up. In the first pair they are ten times too small for harm, and after the last
    one nothing follows.

    Args:
        method: Whose polynomials.
        steps: Of the iteration.
        short: Shorter side of the matrices.
        long: Longer side.
    """
    polynomials = [method.polynomials[min(step, len(method.polynomials) - 1)] for step in range(steps)]
    pairs, ratio = min(2, steps // 2), long / short
    products = sum(2 * ratio + (c != 0) for _, _, c in polynomials)
    if not method.fold or short < LEAST_SIDE or pairs * (2 * ratio - 3) < LEAST_SAVED_FRAC * products:
        return [(polynomial,) for polynomial in polynomials]
    last = steps - 2 * (pairs - 1)
    between = [(polynomial,) for polynomial in polynomials[2:last]]
    return [tuple(polynomials[:2]), *between, *([tuple(polynomials[last:])] if pairs == 2 else [])]


def _iterate(
    x: Stack,
    spare: Stack,
    squares: Sequence[Square],
    plan: Sequence[Sequence[Polynomial]],
    method: Method,
    scale: float,
) -> None:
    """``X <- Q X``, Q a polynomial of ``X X^T``; ``X <- X Q``, of ``X^T X``, if X is tall.

    It goes to and fro between two buffers, and begins so that the last result lies in ``x``.
    """
    tall = x.shape[-2] > x.shape[-1]
    gram, *others = squares
    here, there = (spare, x) if len(plan) % 2 else (x, spare)
    _normalize(x, here, gram, tall, method)
    for index, polynomials in enumerate(plan):
        if index:
            _square(here, tall, out=gram)
        if len(polynomials) == 2:
            matrix = _joint(gram, polynomials, others, tall)
        else:
            matrix = _of_gram(gram, polynomials[0], method.fold, out=others[0])
        factor = scale if index == len(plan) - 1 else 1.0
        left, right = (here, matrix) if tall else (matrix, here)
        if method.fold:
            torch.baddbmm(there, left, right, beta=0.0, alpha=factor, out=there)
        else:
            torch.baddbmm(here, left, right, beta=factor * polynomials[0][0], alpha=factor, out=there)
        here, there = there, here


def _normalize(x: Stack, out: Stack, gram: Square, tall: bool, method: Method) -> None:
    """Divide by what the singular values are at most; the Gram matrix of the result."""
    if method.norm == "frobenius":
        torch.div(x, _norms(x, EPS), out=out)
        _square(out, tall, out=gram)
        return
    _square(x, tall, out=gram)
    norms = _norms(gram, EPS**2)
    gram.div_(norms)
    torch.div(x, norms.sqrt_(), out=out)


def _norms(stack: Stack, least: float) -> Float[Tensor, "count 1 1"]:
    return torch.linalg.vector_norm(stack, dim=(-2, -1), keepdim=True).clamp_min_(least)


def _square(x: Stack, tall: bool, out: Square) -> None:
    """The Gram matrix of the shorter side."""
    torch.bmm(*((x.mT, x) if tall else (x, x.mT)), out=out)


def _of_gram(gram: Square, polynomial: Polynomial, fold: bool, out: Square) -> Square:
    """``b G + c G^2``, with ``a I`` if it is folded in."""
    a, b, c = polynomial
    if c:
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=out)
    else:
        torch.mul(gram, b, out=out)
    if fold:
        out.diagonal(dim1=-2, dim2=-1).add_(a)
    return out


def _joint(gram: Square, polynomials: Sequence[Polynomial], spare: Sequence[Square], tall: bool) -> Square:
    """The polynomial of two steps; the Gram matrix is overwritten.

    The first, F, leaves the Gram matrix ``F G F``. All are polynomials of G and commute, but not once they are rounded:
    F is put where it would stand if X were multiplied with it first.
    """
    first, second = spare
    _of_gram(gram, polynomials[0], fold=True, out=first)
    torch.bmm(first, gram, out=second)
    torch.bmm(second, first, out=gram)
    _of_gram(gram, polynomials[1], fold=True, out=second)
    return torch.bmm(*((first, second) if tall else (second, first)), out=gram)


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
