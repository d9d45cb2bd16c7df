"""Orthogonalise matrices: many of one shape at a time, with matrix products only."""

import torch
from jaxtyping import Float
from torch import Tensor

from rayllm.core.cpu import has_amx

#: Of the odd quintic whose iteration drives singular values towards 1 (into about 0.7 to 1.2), steep at zero.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
EPS = 1e-7
#: Elements of a stack that are worked on at once: bounds the memory of the products between.
MAX_STACK_ELEMENTS = 2**26


def orthogonalize(matrices: Float[Tensor, "count rows cols"], steps: int = 5) -> Float[Tensor, "count rows cols"]:
    """The nearest orthogonal matrix of each, roughly: singular vectors stay, singular values become about one.

    Args:
        matrices: Of any scale; the products are computed in their dtype.
        steps: Iterations.

    Returns:
        A new tensor, contiguous only where rows <= cols.

    Source: Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks, section "Newton-Schulz".
    """
    per_chunk = max(1, MAX_STACK_ELEMENTS // matrices[0].numel()) if len(matrices) else 1
    if len(matrices) > per_chunk:
        return torch.cat([orthogonalize(chunk, steps) for chunk in matrices.split(per_chunk)])
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    norms = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = x / norms.clamp_min(EPS)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


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
    return torch.bfloat16 if has_amx() else torch.float32
