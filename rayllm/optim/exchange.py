"""Whole matrices at their owners, updates back at the holders: two all-to-alls a step, none where nothing travels."""

from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from rayllm.optim.layout import (
    Fragment,
    Matrix,
    Move,
    Piece,
    assign_owners,
    fragments_of,
    moves_to_holders,
    moves_to_owners,
)

Stack = Float[Tensor, "count rows cols"]


class Exchange:
    """The way of matrices to the rank that orthogonalises them, and of the results back.

    Args:
        matrices: All matrices, the same on every rank.
        pieces: For each rank, where parameters lie in its tensors.
        rank: This rank.
        dtype: What matrices travel and are worked on in.

    Attributes:
        matrices: As given; fragments count in it.
        fragments: What ``apply`` gives values for, in its order: this rank's share.

    Source: Liu et al. 2025, Muon is Scalable for LLM Training, arXiv:2502.16982, algorithm 1.
    """

    def __init__(
        self, matrices: Sequence[Matrix], pieces: Sequence[Sequence[Piece]], rank: int, dtype: torch.dtype
    ) -> None:
        self.matrices, self._dtype = matrices, dtype
        fragments = [fragments_of(of_rank, matrices) for of_rank in pieces]
        owners = assign_owners(matrices, fragments)
        shapes = [(matrix.rows, matrix.cols) for matrix in matrices]
        owned: list[list[int]] = [[] for _ in pieces]
        for index in sorted(range(len(matrices)), key=lambda index: shapes[index]):
            owned[owners[index]].append(index)
        self._stacks = [(count, *shape) for shape, count in Counter(shapes[index] for index in owned[rank]).items()]
        starts = _starts(matrices, owned)
        self._to_owners = _Route(moves_to_owners(matrices, fragments, owners), starts, rank, len(pieces))
        self._to_holders = _Route(moves_to_holders(fragments, owners), starts, rank, len(pieces))
        held = {(part.matrix, part.start): part for part in fragments[rank]}
        self._out = [held[move.matrix, move.start] for move in self._to_owners.sends]
        self._places = [starts[move.matrix] + move.start for move in self._to_owners.receives]
        self._cuts = [(starts[move.matrix] + move.start, move.length) for move in self._to_holders.sends]
        self.fragments: list[Fragment] = [held[move.matrix, move.start] for move in self._to_holders.receives]

    def apply(
        self, holders: Sequence[Float[Tensor, " n"]], work: Callable[[Stack], Stack]
    ) -> list[Float[Tensor, " m"]]:
        """Gather matrices, work on them, scatter the results; all ranks together.

        Args:
            holders: This rank's flattened tensors.
            work: From a stack of whole matrices of one shape to a stack of results.

        Returns:
            The result's values for each of ``fragments``, in the exchange's dtype.
        """
        stacks = self._gather(holders)
        return self._scatter([work(stack) for stack in stacks], like=holders[0])

    def _gather(self, holders: Sequence[Float[Tensor, " n"]]) -> list[Stack]:
        views = [holders[part.holder].narrow(0, part.at, part.length) for part in self._out]
        received = self._to_owners.carry(_join(views, holders[0]).to(self._dtype))
        if self._places != sorted(self._places):
            parts = received.split([move.length for move in self._to_owners.receives])
            ordered = sorted(zip(self._places, parts, strict=True), key=itemgetter(0))
            received = torch.cat([part for _, part in ordered])
        stacks = received.split([count * rows * cols for count, rows, cols in self._stacks])
        return [stack.view(shape) for stack, shape in zip(stacks, self._stacks, strict=True)]

    def _scatter(self, stacks: Sequence[Stack], like: Tensor) -> list[Float[Tensor, " m"]]:
        flat = _join([stack.reshape(-1) for stack in stacks], like)
        packed = _join([flat.narrow(0, at, length) for at, length in self._cuts], flat).to(self._dtype)
        return list(self._to_holders.carry(packed).split([move.length for move in self._to_holders.receives]))


class _Route:
    """One all-to-all, as one rank sees it.

    Args:
        moves: Of all ranks.
        starts: Where each matrix begins among its owner's: the order of what two ranks exchange.
        rank: This rank.
        world_size: Ranks.
    """

    def __init__(self, moves: Sequence[Move], starts: Sequence[int], rank: int, world_size: int) -> None:
        ordered = sorted(moves, key=lambda move: (move.source, move.target, starts[move.matrix] + move.start))
        self.sends = [move for move in ordered if move.source == rank]
        self.receives = [move for move in ordered if move.target == rank]
        self._travels = any(move.source != move.target for move in moves)
        self._sent, self._received = [0] * world_size, [0] * world_size
        for move in self.sends:
            self._sent[move.target] += move.length
        for move in self.receives:
            self._received[move.source] += move.length

    def carry(self, values: Float[Tensor, " sent"]) -> Float[Tensor, " received"]:
        """Exchange what ``sends`` lists, in its order, for what ``receives`` lists; all ranks together."""
        if not self._travels:
            return values
        received = values.new_empty(sum(self._received))
        dist.all_to_all_single(received, values, self._received, self._sent)
        return received


def _starts(matrices: Sequence[Matrix], order: Sequence[Sequence[int]]) -> list[int]:
    """Where each matrix begins in its owner's buffer, which holds all of the owner's matrices one after another."""
    starts = [0] * len(matrices)
    for of_owner in order:
        at = 0
        for index in of_owner:
            starts[index] = at
            at += matrices[index].size
    return starts


def _join(parts: Sequence[Float[Tensor, " n"]], like: Tensor) -> Float[Tensor, " total"]:
    return torch.cat(list(parts)) if parts else like.new_empty(0)
