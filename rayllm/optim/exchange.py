"""Whole matrices at their owners, updates back at the holders: two all-to-alls a step, none where nothing travels."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from rayllm.optim.layout import (
    Matrix,
    Move,
    Piece,
    assign_owners,
    fragments_of,
    moves_to_holders,
    moves_to_owners,
)

Stack = Float[Tensor, "count rows cols"]
#: First element in a flattened tensor, and what lies or belongs there.
Place = tuple[int, Float[Tensor, " n"]]


class Exchange:
    """The way of matrices to the rank that orthogonalises them, and of the results back.

    An owner keeps room for all of its matrices, those of one shape one after another: a stack. What it holds itself is
    copied straight into its place there; only what comes from other ranks goes through a buffer of its own.

    Args:
        matrices: All matrices, the same on every rank.
        pieces: For each rank, where parameters lie in its tensors.
        rank: This rank.
        like: Any tensor of the dtype in which matrices travel and are worked on, on the device where they are.

    Source: Liu et al. 2025, Muon is Scalable for LLM Training, arXiv:2502.16982, algorithm 1.
    """

    def __init__(self, matrices: Sequence[Matrix], pieces: Sequence[Sequence[Piece]], rank: int, like: Tensor) -> None:
        fragments = [fragments_of(of_rank, matrices) for of_rank in pieces]
        owners = assign_owners(matrices, fragments)
        starts, owned = _places(matrices, owners, rank)
        room = like.new_empty(sum(matrix.size for matrix in owned))
        self._stacks = _stacks(room, owned)
        held = {(part.matrix, part.start): part for part in fragments[rank]}

        def at_owner(moves: Sequence[Move]) -> list[Tensor]:
            return [room.narrow(0, starts[move.matrix] + move.start, move.length) for move in moves]

        def by_holder(moves: Sequence[Move], places: Sequence[Tensor]) -> dict[int, list[Place]]:
            found: dict[int, list[Place]] = {}
            for move, place in zip(moves, places, strict=True):
                part = held[move.matrix, move.start]
                found.setdefault(part.holder, []).append((part.at, place))
            return found

        self._there = there = _Route(moves_to_owners(matrices, fragments, owners), rank, len(pieces), like)
        self._back = back = _Route(moves_to_holders(fragments, owners), rank, len(pieces), like)
        self._leaving = by_holder([*there.stays, *there.sends], [*at_owner(there.stays), *there.outbox])
        self._arriving = at_owner(there.receives)
        self._departing = at_owner(back.sends)
        self._returned = by_holder([*back.stays, *back.receives], [*at_owner(back.stays), *back.inbox])

    def take(self, holder: int, values: Float[Tensor, " n"]) -> None:
        """Take over the matrices, or parts of such, in one of this rank's tensors.

        Args:
            holder: Which of them.
            values: It, flattened; copied.
        """
        for at, place in self._leaving.get(holder, []):
            place.copy_(values.narrow(0, at, len(place)))

    def work(self, work: Callable[[Stack], None]) -> None:
        """Work on what was taken from all holders, each matrix at its owner; all ranks together.

        Args:
            work: Overwrites a stack of whole matrices of one shape with the results.
        """
        self._there.carry()
        _copy(self._there.inbox, self._arriving)
        for stack in self._stacks:
            work(stack)
        _copy(self._departing, self._back.outbox)
        self._back.carry()

    def results(self, holder: int) -> list[Place]:
        """Where results belong in one of this rank's flattened tensors, and the results, until the next ``take``."""
        return self._returned.get(holder, [])


class _Route:
    """One all-to-all, as one rank sees it; what stays is not part of it.

    Args:
        moves: Of all ranks.
        rank: This rank.
        world_size: Ranks.
        like: Of the dtype and on the device of what travels.

    Attributes:
        stays: Moves from this rank to itself.
        sends: Moves from this rank to others.
        receives: Moves from others to this rank.
        outbox: A view for each of ``sends``, to be filled before ``carry``.
        inbox: A view for each of ``receives``, filled after it.
    """

    def __init__(self, moves: Sequence[Move], rank: int, world_size: int, like: Tensor) -> None:
        ordered = sorted(moves, key=lambda move: (move.source, move.target, move.matrix, move.start))
        travelling = [move for move in ordered if move.source != move.target]
        self.stays = [move for move in ordered if move.source == rank == move.target]
        self.sends = [move for move in travelling if move.source == rank]
        self.receives = [move for move in travelling if move.target == rank]
        self._travels = bool(travelling)
        self._sent = [_length(move for move in self.sends if move.target == other) for other in range(world_size)]
        self._received = [
            _length(move for move in self.receives if move.source == other) for other in range(world_size)
        ]
        self._out, self._in = like.new_empty(sum(self._sent)), like.new_empty(sum(self._received))
        self.outbox = _cut(self._out, self.sends)
        self.inbox = _cut(self._in, self.receives)

    def carry(self) -> None:
        """Exchange what is in the outboxes for what belongs in the inboxes; all ranks together."""
        if self._travels:
            dist.all_to_all_single(self._in, self._out, self._received, self._sent)


def _places(matrices: Sequence[Matrix], owners: Sequence[int], rank: int) -> tuple[dict[int, int], list[Matrix]]:
    """Where each of an owner's matrices begins in its room, by index; and the matrices in the room's order."""
    own = [index for index, owner in enumerate(owners) if owner == rank]
    own.sort(key=lambda index: (matrices[index].rows, matrices[index].cols))
    starts, at = {}, 0
    for index in own:
        starts[index] = at
        at += matrices[index].size
    return starts, [matrices[index] for index in own]


def _stacks(room: Float[Tensor, " total"], owned: Sequence[Matrix]) -> list[Stack]:
    """The room as a stack for each shape."""
    found, at = [], 0
    for (rows, cols), members in groupby(owned, key=lambda matrix: (matrix.rows, matrix.cols)):
        count = len(list(members))
        found.append(room.narrow(0, at, count * rows * cols).view(count, rows, cols))
        at += count * rows * cols
    return found


def _cut(flat: Float[Tensor, " total"], moves: Sequence[Move]) -> list[Tensor]:
    return list(flat.split([move.length for move in moves])) if moves else []


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    if sources:
        torch._foreach_copy_(list(targets), list(sources))


def _length(moves: Iterable[Move]) -> int:
    return sum(move.length for move in moves)
