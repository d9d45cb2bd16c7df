"""Matrices reach their owners whole and results come back, for any layout; ranks are threads with a mailbox."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local

import pytest
import torch

from rayllm.optim.exchange import Exchange
from rayllm.optim.layout import Piece, matrices_of

SHAPES = {"a.qkv.weight": (8, 6), "b.weight": (4, 6), "c.weight": (5, 2), "d.qkv.weight": (8, 6), "e.weight": (3, 9)}
MATRICES = matrices_of(SHAPES, {"qkv.weight": (4, 2, 2)})
PADDING = 3


def flat_partitions(ranks: int) -> list[list[Piece]]:
    """As ZeRO 1 and 2 have it: parameters one after another, cut into equal ranges, with room to spare in front."""
    total = sum(torch.Size(shape).numel() for shape in SHAPES.values())
    size, start = -(-total // ranks), 0
    pieces: list[list[Piece]] = [[] for _ in range(ranks)]
    for name, shape in SHAPES.items():
        stop = start + torch.Size(shape).numel()
        for rank in range(ranks):
            low, high = max(start, rank * size), min(stop, (rank + 1) * size)
            if low < high:
                pieces[rank].append(Piece(name, low - start, high - low, 0, PADDING + low - rank * size))
        start = stop
    return pieces


def whole(ranks: int) -> list[list[Piece]]:
    """As the plain engine has it: every parameter on every rank."""
    return [
        [
            Piece(name, 0, torch.Size(shape).numel(), index, PADDING)
            for index, (name, shape) in enumerate(SHAPES.items())
        ]
    ] * ranks


class Mailbox:
    """``all_to_all_single`` among threads."""

    def __init__(self, ranks: int) -> None:
        self._barrier, self.here = Barrier(ranks), local()
        self._boxes: list[Sequence[torch.Tensor]] = [[] for _ in range(ranks)]

    def carry(self, into: torch.Tensor, out: torch.Tensor, received: list[int], sent: list[int]) -> None:
        self._boxes[self.here.rank] = out.split(sent)
        self._barrier.wait(timeout=30)
        arriving = [box[self.here.rank] for box in self._boxes]
        assert [len(part) for part in arriving] == received
        into.copy_(torch.cat(arriving))
        self._barrier.wait(timeout=30)


def value(piece: Piece) -> torch.Tensor:
    """Every element of every parameter has a value of its own."""
    first = list(SHAPES).index(piece.param) * 100 + piece.offset
    return torch.arange(first, first + piece.length, dtype=torch.float32)


def halve(stack: torch.Tensor) -> None:
    stack.mul_(-0.5)


def holders_of(pieces: list[Piece]) -> list[torch.Tensor]:
    found = [torch.full((PADDING + 200,), -1.0) for _ in range(1 + max(piece.holder for piece in pieces))]
    for piece in pieces:
        found[piece.holder][piece.at : piece.at + piece.length] = value(piece)
    return found


@pytest.mark.parametrize("layout", [flat_partitions, whole])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_every_matrix_is_worked_on_once_and_its_result_returns_to_all_its_holders(
    layout, ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox, pieces = Mailbox(ranks), layout(ranks)
    monkeypatch.setattr("torch.distributed.all_to_all_single", mailbox.carry)

    def of_rank(rank: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        mailbox.here.rank = rank
        holders, seen = holders_of(pieces[rank]), []

        def work(stack: torch.Tensor) -> None:
            seen.extend(stack.clone())
            stack.mul_(-2)

        exchange = Exchange(MATRICES, pieces, rank, torch.empty(0))
        for works in (work, halve, work):
            for index, holder in enumerate(holders):
                exchange.take(index, holder)
            exchange.work(works)
            for index, holder in enumerate(holders):
                for at, result in exchange.results(index):
                    holder[at : at + len(result)] = result
        return holders, seen

    with ThreadPoolExecutor(ranks) as threads:
        results = list(threads.map(of_rank, range(ranks)))
    seen = [matrix for _, matrices in results for matrix in matrices]
    assert len(seen) == 2 * len(MATRICES)
    for matrix in MATRICES:
        piece = Piece(matrix.param, matrix.offset, matrix.size, 0, 0)
        expected = value(piece).view(matrix.rows, matrix.cols)
        assert sum(found.shape == expected.shape and torch.equal(found, expected) for found in seen) == 2
    for (holders, _), held in zip(results, pieces, strict=True):
        for before, after in zip(holders_of(held), holders, strict=True):
            assert torch.equal(after, torch.where(before == -1, before, before * -2))
