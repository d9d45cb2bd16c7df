"""Where matrices lie among ranks, who orthogonalises which, and what has to travel for it: pure bookkeeping.

A rank updates tensors ("holders"): whole parameters, or flat partitions in which parameters lie in pieces. A matrix is
orthogonalised by one rank, its owner, which needs all of it; then its update goes to every rank that holds some of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A run of a parameter's elements inside one of the tensors that a rank updates.

    Attributes:
        param: Name of the parameter.
        offset: First element, in the flattened parameter.
        length: Elements.
        holder: Which of the rank's tensors.
        at: First element, in the flattened holder.
    """

    param: str
    offset: int
    length: int
    holder: int
    at: int


@dataclass(frozen=True)
class Matrix:
    """Rows of a parameter that are a matrix of their own; ``offset`` counts elements of the flattened parameter."""

    param: str
    offset: int
    rows: int
    cols: int

    @property
    def size(self) -> int:
        """Elements."""
        return self.rows * self.cols

    @property
    def cost(self) -> int:
        """What orthogonalising it takes, in some unit: products of its shorter side."""
        return min(self.rows, self.cols) * self.size


@dataclass(frozen=True)
class Move:
    """A run of a matrix's elements that goes from one rank to another, or stays.

    Attributes:
        matrix: Index of the matrix.
        start: First element, in the flattened matrix.
        length: Elements.
        source: Rank that has the values.
        target: Rank that needs them.
    """

    matrix: int
    start: int
    length: int
    source: int
    target: int


@dataclass(frozen=True)
class Fragment:
    """The part of a matrix that lies in one piece."""

    matrix: int
    start: int
    length: int
    holder: int
    at: int


def matrices_of(shapes: Mapping[str, Sequence[int]], splits: Mapping[str, Sequence[int]]) -> list[Matrix]:
    """The matrices that parameters are made of.

    Args:
        shapes: Shape of each parameter; more than two dimensions are a stack of matrices.
        splits: Rows of the matrices inside a fused parameter, by the end of its name.
    """
    found = []
    for param, shape in shapes.items():
        *leading, rows, cols = shape
        blocks = next((split for end, split in splits.items() if param.endswith(end)), [rows])
        assert sum(blocks) == rows, f"{param} has {rows} rows, its matrices {list(blocks)}"
        offset, stop = 0, rows * cols
        for size in leading:
            stop *= size
        while offset < stop:
            for block in blocks:
                found.append(Matrix(param, offset, block, cols))
                offset += block * cols
    return found


def fragments_of(pieces: Sequence[Piece], matrices: Sequence[Matrix]) -> list[Fragment]:
    """Cut a rank's pieces at the borders of matrices."""
    inside: dict[str, list[int]] = {}
    for index, matrix in enumerate(matrices):
        inside.setdefault(matrix.param, []).append(index)
    found = []
    for piece in pieces:
        for index in inside.get(piece.param, []):
            matrix = matrices[index]
            low = max(piece.offset, matrix.offset)
            high = min(piece.offset + piece.length, matrix.offset + matrix.size)
            if low < high:
                at = piece.at + low - piece.offset
                found.append(Fragment(index, low - matrix.offset, high - low, piece.holder, at))
    return found


def assign_owners(matrices: Sequence[Matrix], fragments: Sequence[Sequence[Fragment]]) -> list[int]:
    """Choose a rank for each matrix: the work is shared evenly first, then as little as possible travels.

    Matrices of one shape cost the same, so first each rank's number of each shape is fixed (costly shapes first, each
    to the rank with the least work), then a matrix goes to the rank that holds most of it and has a place left.

    Args:
        matrices: What to orthogonalise.
        fragments: For each rank, what it holds.

    Returns:
        A rank for each matrix; the same on every rank.
    """
    held: dict[tuple[int, int], int] = {}
    for rank, of_rank in enumerate(fragments):
        for fragment in of_rank:
            held[fragment.matrix, rank] = held.get((fragment.matrix, rank), 0) + fragment.length
    ranks, work = range(len(fragments)), [0] * len(fragments)
    owners = [0] * len(matrices)
    classes: dict[tuple[int, int, int], list[int]] = {}
    for index, matrix in enumerate(matrices):
        classes.setdefault((matrix.cost, matrix.rows, matrix.cols), []).append(index)
    for (cost, _, _), members in sorted(classes.items(), reverse=True):
        places = [0] * len(fragments)
        for _ in members:
            chosen = min(ranks, key=lambda rank: work[rank])
            places[chosen] += 1
            work[chosen] += cost
        wishes = sorted((-held.get((index, rank), 0), index, rank) for index in members for rank in ranks)
        waiting = set(members)
        for _, index, rank in wishes:
            if index in waiting and places[rank]:
                owners[index] = rank
                places[rank] -= 1
                waiting.remove(index)
    return owners


def moves_to_owners(
    matrices: Sequence[Matrix], fragments: Sequence[Sequence[Fragment]], owners: Sequence[int]
) -> list[Move]:
    """What travels so that each owner has its matrices: nothing where it holds them anyway."""
    by_matrix: list[dict[int, list[Fragment]]] = [{} for _ in matrices]
    for rank, of_rank in enumerate(fragments):
        for fragment in of_rank:
            by_matrix[fragment.matrix].setdefault(rank, []).append(fragment)
    found = []
    for index, (matrix, owner, holding) in enumerate(zip(matrices, owners, by_matrix, strict=True)):
        whole = sum(fragment.length for fragment in holding.get(owner, [])) == matrix.size
        sources = {owner: holding[owner]} if whole else holding
        covered = sum(fragment.length for held in sources.values() for fragment in held)
        assert covered == matrix.size, f"ranks hold {covered} of the {matrix.size} elements of {matrix}"
        found += [Move(index, part.start, part.length, rank, owner) for rank, held in sources.items() for part in held]
    return found


def moves_to_holders(fragments: Sequence[Sequence[Fragment]], owners: Sequence[int]) -> list[Move]:
    """What travels so that every rank has the updates of what it holds."""
    return [
        Move(fragment.matrix, fragment.start, fragment.length, owners[fragment.matrix], rank)
        for rank, of_rank in enumerate(fragments)
        for fragment in of_rank
    ]
