"""Muon as a rule of a group: momentum, orthogonalised matrix by matrix, each on one rank.

The momentum is elementwise, so every rank updates it where its elements lie. Only orthogonalising needs whole matrices:
``optim.exchange`` brings each to one rank and its result back. The rule knows no ZeRO stage: whatever the layout of the
tensors that it is given, the update is that of a single process.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.sgd import sgd

from rayllm.optim.adamw import FUSED
from rayllm.optim.config import MuonConfig
from rayllm.optim.exchange import Exchange
from rayllm.optim.layout import Matrix, Piece
from rayllm.optim.newton_schulz import METHODS, orthogonalize_, resolve_dtype

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
        device: Where matrices are orthogonalised, which may be another than where the tensors to update are.
    """

    def __init__(self, config: MuonConfig, matrices: Sequence[Matrix], device: torch.device) -> None:
        self._nesterov, self._dtype = config.nesterov, config.ns_dtype
        self._method, self._steps = METHODS[config.ns_coefficients], config.ns_steps
        self._scale = UPDATE_SCALES[config.update_scale]
        self._matrices, self._device = matrices, device
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
        like = torch.empty(0, dtype=resolve_dtype(self._dtype, self._device), device=self._device)
        self._exchanges[tensors[0]] = Exchange(matrices, pieces, rank, like)

    @torch.no_grad()
    def update(self, tensors: Sequence[Tensor], states: Sequence[dict[str, Tensor]], group: dict[str, Any]) -> None:
        """Update matrices; all ranks together. Gradients are overwritten; a missing one counts as zero."""
        momenta = [state["momentum"] for state in states]
        directions = self._directions(tensors, momenta, group["momentum"], group["shrink"])
        flat = [direction.view(-1) for direction in directions]
        self._exchanges[tensors[0]].apply(flat, self._orthogonalize)
        # Stochastic descent along the updates: with its decay, ``p - lr * (update + decay * p)`` in one fused pass.
        sgd(
            list(tensors),
            directions,
            [None] * len(directions),
            fused=all(tensor.device.type in FUSED for tensor in tensors),
            weight_decay=group["weight_decay"],
            momentum=0.0,
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def _orthogonalize(self, stack: Float[Tensor, "count rows cols"]) -> None:
        orthogonalize_(stack, self._method, self._steps, self._scale(*stack.shape[1:]))

    def _directions(self, tensors: Sequence[Tensor], momenta: list[Tensor], beta: float, shrink: float) -> list[Tensor]:
        """Take the gradients into the momentum; the directions to orthogonalise, where the gradients were."""
        gradients = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in tensors]
        if shrink != 1:
            torch._foreach_mul_(gradients, shrink)
        torch._foreach_lerp_(momenta, gradients, 1 - beta)
        if self._nesterov:
            torch._foreach_lerp_(gradients, momenta, beta)
        else:
            torch._foreach_copy_(gradients, momenta)
        return gradients
