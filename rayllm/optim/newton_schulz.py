"""Orthogonalise matrices: many of one shape at a time, in place, with matrix products only."""

import torch
from jaxtyping import Float
from torch import Tensor

from rayllm.core.cpu import multiplies_bf16

#: Of the odd quintic whose iteration drives singular values towards 1 (into about 0.7 to 1.2), steep at zero.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7
#: Elements that are worked on at once, by kind of device: bounds the memory of the products between. On a CPU they
#: should stay in its cache (7 square matrices of width 384 at once take two thirds of the time of 32).
CHUNK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}

Stack = Float[Tensor, "count rows cols"]


@torch.no_grad()
def orthogonalize_(stack: Stack, steps: int = 5, scale: float = 1.0) -> None:
    """Make of each matrix the nearest orthogonal one, roughly: singular vectors stay, singular values become about one.

    Args:
        stack: Of any scale; overwritten; the products are computed in its dtype.
        steps: Iterations.
        scale: What the results are multiplied by.

    Source: Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks, section "Newton-Schulz".
    """
    if not stack.numel():
        return
    per_chunk = max(1, CHUNK_ELEMENTS[stack.device.type] // stack[0].numel())
    spare = torch.empty_like(stack[:per_chunk])
    side = min(stack.shape[1:])
    gram, polynomial = (spare.new_empty(len(spare), side, side) for _ in range(2))
    for chunk in stack.split(per_chunk):
        count = len(chunk)
        _iterate(chunk, spare[:count], gram[:count], polynomial[:count], steps, scale)


def _iterate(x: Stack, spare: Stack, gram: Stack, polynomial: Stack, steps: int, scale: float) -> None:
    """``X <- a X + (b G + c G^2) X`` with the Gram matrix ``G = X X^T``; from the right and ``X^T X`` if X is tall.

    It goes to and fro between two buffers, and begins so that the last result lies in ``x``.
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[-2] > x.shape[-1]
    norms = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp_min(EPS)
    here, there = (spare, x) if steps % 2 else (x, spare)
    torch.div(x, norms, out=here)
    for step in range(steps):
        factor = scale if step == steps - 1 else 1.0
        left, right = (here.mT, here) if tall else (here, here.mT)
        torch.bmm(left, right, out=gram)
        torch.baddbmm(gram, gram, gram, beta=b, alpha=c, out=polynomial)
        left, right = (here, polynomial) if tall else (polynomial, here)
        torch.baddbmm(here, left, right, beta=factor * a, alpha=factor, out=there)
        here, there = there, here


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
