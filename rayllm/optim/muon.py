"""Muon as a rule of a group: momentum, orthogonalised matrix by matrix, each on one rank.

The momentum is elementwise, so every rank updates it where its elements lie. Only orthogonalising needs whole matrices:
``optim.exchange`` brings each to one rank and its result back. The rule knows no ZeRO stage: whatever the layout of the
tensors that it is given, the update is that of a single process.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rayllm.optim.config import MuonConfig
from rayllm.optim.exchange import Exchange
from rayllm.optim.layout import Matrix, Piece
from rayllm.optim.newton_schulz import orthogonalize, resolve_dtype

#: Factor on an orthogonal update of rows times cols. ``rms``: a root mean square of about 0.2, as AdamW's updates have
#: (Liu et al. 2025, Muon is Scalable, arXiv:2502.16982, section 2.2). ``spectral``: Jordan et al. 2024.
UPDATE_SCALES: dict[str, Callable[[int, int], float]] = {
    "rms": lambda rows, cols: 0.2 * math.sqrt(max(rows, cols)),
    "spectral": lambda rows, cols: math.sqrt(max(1.0, rows / cols)),
}


class MuonRule:
    """Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks, with decoupled weight decay.

    Args:
        config: Where its constants stand.
        matrices: All matrices of its group, those inside fused parameters too.
    """

    def __init__(self, config: MuonConfig, matrices: Sequence[Matrix]) -> None:
        self._nesterov, self._steps, self._dtype = config.nesterov, config.ns_steps, config.ns_dtype
        self._scale = UPDATE_SCALES[config.update_scale]
        self._matrices = matrices
        self._exchanges: dict[Tensor, Exchange] = {}

    def new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        """Empty momentum."""
        return {"momentum": torch.zeros_like(tensor)}

    def arrange(self, tensors: Sequence[Tensor], pieces: Sequence[Sequence[Piece]], rank: int) -> None:
        """Plan the exchange for tensors that are updated together.

        Args:
            tensors: Those of this rank, in the order in which ``update`` gets them.
            pieces: For each rank, what lies where in its tensors.
            rank: This rank.
        """
        present = {piece.param for of_rank in pieces for piece in of_rank}
        matrices = [matrix for matrix in self._matrices if matrix.param in present]
        dtype = resolve_dtype(self._dtype, tensors[0].device)
        self._exchanges[tensors[0]] = Exchange(matrices, pieces, rank, dtype)

    @torch.no_grad()
    def update(self, tensors: Sequence[Tensor], states: Sequence[dict[str, Tensor]], group: dict[str, Any]) -> None:
        """Update matrices; all ranks together. Gradients are overwritten; a missing one counts as zero."""
        exchange = self._exchanges[tensors[0]]
        directions = self._directions(tensors, [state["momentum"] for state in states], group["momentum"])
        updates = exchange.apply(directions, lambda stack: orthogonalize(stack, self._steps))
        torch._foreach_mul_(list(tensors), 1 - group["lr"] * group["weight_decay"])
        by_scale: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
        for part, update in zip(exchange.fragments, updates, strict=True):
            matrix = exchange.matrices[part.matrix]
            weights, changes = by_scale.setdefault(self._scale(matrix.rows, matrix.cols), ([], []))
            weights.append(tensors[part.holder].view(-1).narrow(0, part.at, part.length))
            changes.append(update)
        for scale, (weights, changes) in by_scale.items():
            torch._foreach_add_(weights, changes, alpha=-group["lr"] * scale)

    def _directions(self, tensors: Sequence[Tensor], momenta: list[Tensor], beta: float) -> list[Tensor]:
        """Take the gradients into the momentum; the flattened directions to orthogonalise."""
        gradients = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in tensors]
        torch._foreach_lerp_(momenta, gradients, 1 - beta)
        if self._nesterov:
            torch._foreach_lerp_(gradients, momenta, beta)
        return [direction.reshape(-1) for direction in (gradients if self._nesterov else momenta)]
