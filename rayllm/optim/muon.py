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
        """Update matrices; all ranks together. Gradients are overwritten; a missing one counts as zero.

        Tensor by tensor, since each is passed over several times and may stay in the cache between.
        """
        exchange, lr = self._exchanges[tensors[0]], group["lr"]
        for index, (tensor, state) in enumerate(zip(tensors, states, strict=True)):
            direction = self._direction(tensor, state["momentum"], group["momentum"], group["shrink"])
            exchange.take(index, direction.view(-1))
        exchange.work(self._orthogonalize)
        for index, tensor in enumerate(tensors):
            flat = tensor.view(-1).mul_(1 - lr * group["weight_decay"])
            for at, result in exchange.results(index):
                flat.narrow(0, at, len(result)).add_(result.to(flat.device), alpha=-lr)

    def _orthogonalize(self, stack: Float[Tensor, "count rows cols"]) -> None:
        orthogonalize_(stack, self._method, self._steps, self._scale(*stack.shape[1:]))

    def _direction(self, tensor: Tensor, momentum: Tensor, beta: float, shrink: float) -> Tensor:
        """Take the gradient into the momentum; the direction to orthogonalise."""
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        if shrink != 1:
            gradient.mul_(shrink)
        momentum.lerp_(gradient, 1 - beta)
        return gradient.lerp_(momentum, beta) if self._nesterov else momentum
