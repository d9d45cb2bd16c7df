"""Rows of tokens to batches: the labels are shifted here, and only here.

In: token streams, a ``Plan`` and the rows that it draws from. Out: batches of any rows of any step, the same whatever
the number of ranks and the micro-batch size. Where a
reader reads is the caller's step.
"""

import dataclasses
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from rayllm.core.errors import DataError
from rayllm.data.mixing.mixture import Mixture
from rayllm.data.mixing.plan import Plan
from rayllm.data.packing.row_index import planned_rows, slices_of
from rayllm.data.packing.rows import Piece, Rows, Segment, Tokens, read_segments
from rayllm.data.shards.packed import PackedData
from rayllm.model.config import IGNORE_INDEX

#: The number of a row that only fills up a rank's share; none of its labels counts.
PADDING_ROW = -1
Item = TypeVar("Item")


@dataclass(frozen=True)
class Batch:
    """Some rows, ready for the model; tensors are int64 where nothing else is said.

    Attributes:
        input_ids: What the model reads.
        labels: What each position should predict: the token after it, or ``IGNORE_INDEX``.
        doc_ids: Number of documents that have begun in the row up to and including each position: one begins at each
            separator, and where the rest of one that was cut follows another.
        domain: Index of each row's domain in the plan; 0 for padding rows, whose labels are all ignored.
        reference: In rows of pairs, what the reference model says of each document in turn: the log-probability of its
            reply, in nats, float64; 0 beyond a row's last. See ``data.preferences``.
    """

    input_ids: Int[Tensor, "rows seq"]
    labels: Int[Tensor, "rows seq"]
    doc_ids: Int[Tensor, "rows seq"]
    domain: Int[Tensor, " rows"]
    reference: Float64[Tensor, "rows halves"] | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        tensors = (self.input_ids, self.labels, self.doc_ids, self.domain)
        moved = Batch(*(tensor.to(device, non_blocking=True) for tensor in tensors))
        if self.reference is None:
            return moved
        return dataclasses.replace(moved, reference=self.reference.to(device, non_blocking=True))


def make_batch(rows: Sequence[Sequence[Piece]], domain: Sequence[int], seq_len: int, separator_id: int) -> Batch:
    """Stack rows and shift their labels.

    Args:
        rows: The pieces of each row, together at most ``seq_len`` tokens and the one that follows each; the rest is
            padding.
        domain: The domain of each row.
        seq_len: Length of the batch.
        separator_id: Begins every document; fills the padding too.
    """
    input_ids = np.full((len(rows), seq_len), separator_id, np.int64)
    labels = np.full((len(rows), seq_len), IGNORE_INDEX, np.int64)
    begins = np.zeros((len(rows), seq_len), bool)
    for number, row in enumerate(rows):
        at = 0
        for tokens, learnt in row:
            place = slice(at, at + len(tokens) - 1)
            input_ids[number, place] = tokens[:-1]
            labels[number, place] = tokens[1:] if learnt is None else np.where(learnt[1:], tokens[1:], IGNORE_INDEX)
            begins[number, at : at + 1] = at > 0
            at = place.stop
    doc_ids = (begins | (input_ids == separator_id)).cumsum(axis=1)
    return Batch(*map(torch.from_numpy, (input_ids, labels, doc_ids, np.asarray(domain, np.int64))))


def with_reference(batch: Batch, rows: Sequence[Float64[np.ndarray, " halves"]]) -> Batch:
    """A batch that carries what the reference says of each half of each row.

    Args:
        batch: Rows of pairs.
        rows: The log-probabilities of each row's halves; none for a padding row.
    """
    reference = np.zeros((len(rows), max((len(row) for row in rows), default=0)))
    for place, row in zip(reference, rows, strict=True):
        place[: len(row)] = row
    return dataclasses.replace(batch, reference=torch.from_numpy(reference))


def rank_rows(batch_rows: int, world_size: int, rank: int) -> list[int]:
    """The rows of the global batch that a rank takes: a contiguous share, as long on every rank.

    Returns:
        Row numbers, then ``PADDING_ROW`` where the rows do not go round.
    """
    share = -(-batch_rows // world_size)
    return [row if row < batch_rows else PADDING_ROW for row in range(rank * share, (rank + 1) * share)]


@dataclass(frozen=True)
class Place:
    """Where a row of a batch comes from.

    Attributes:
        row: Its number in the global batch.
        domain: Index of its domain in the plan.
        number: Its number among the domain's rows of this length.
        segments: The tokens of the domain's stream that it holds; none for a padding row.
    """

    row: int
    domain: int
    number: int
    segments: tuple[Segment, ...]


class RowScores(Protocol):
    """What a reference model says of the documents of a stream; ``data.preferences.PairScores`` is one."""

    def of_row(self, segments: Sequence[Segment]) -> Float64[np.ndarray, " halves"]:
        """Of each document of a row in turn."""
        ...


class BatchReader:
    """Reads the batches of a plan; its one state is the plan, which grows a row where an adaptive mixture moves.

    Args:
        streams: The training tokens of each domain, in the plan's order.
        plan: The run's plan.
        separator_id: The id that begins every document.
        rows: For every length of the plan the rows of each domain, see ``row_index.planned_rows``; not needed where
            rows are slices.
        scores: Of each domain what the batches are to carry as ``reference``; None: nothing.

    Raises:
        DataError: If the streams or rows are not those that the plan was made for.
    """

    def __init__(
        self,
        streams: Sequence[Tokens],
        plan: Plan,
        separator_id: int,
        rows: Mapping[int, Sequence[Rows]] | None = None,
        scores: Sequence[RowScores] | None = None,
    ) -> None:
        sizes = [stream.num_tokens for stream in streams]
        if sizes != list(plan.domain_tokens.values()):
            raise DataError(
                "the packed data is not the data that this run was planned with",
                why=f"the plan has {plan.domain_tokens}; the streams have {sizes} tokens",
                fix="restore the packed artifact, or start a new run",
            )
        assert rows is not None or plan.packing == "concat", "only slices follow from the plan alone"
        self._rows = rows or {stage.seq_len: slices_of(plan, stage.seq_len) for stage in plan.stages}
        self._streams, self.plan, self._separator_id = list(streams), plan, separator_id
        self._mixture, self._scores = Mixture(plan), scores

    def turn(self, plan: Plan) -> None:
        """Go on with a table whose weights are others from some step on; nobody reads meanwhile."""
        self.plan, self._mixture = plan, Mixture(plan)

    def places(self, step: int, row_indices: Sequence[int]) -> list[Place]:
        """Where some rows of a step's global batch come from.

        Args:
            step: Optimizer step, counted from 0.
            row_indices: Numbers of rows in the global batch, or ``PADDING_ROW``.
        """
        index, stage, step_in_stage = self.plan.at(step)
        numbers = np.asarray(row_indices, np.int64)
        real = numbers != PADDING_ROW
        assert (numbers[real] < stage.batch_rows).all(), "a row beyond the global batch"
        drawn = self._mixture.rows(index, step_in_stage * stage.batch_rows + np.maximum(numbers, 0))
        rows = self._rows[stage.seq_len]
        return [
            Place(row, domain, number, tuple(rows[domain].segments(number)))
            if row != PADDING_ROW
            else Place(PADDING_ROW, 0, 0, ())
            for row, domain, number in zip(numbers.tolist(), *(part.tolist() for part in drawn), strict=True)
        ]

    def rows(self, step: int, row_indices: Sequence[int]) -> Batch:
        """Some rows of a step's global batch; see ``places``."""
        places = self.places(step, row_indices)
        rows = [read_segments(self._streams[place.domain], place.segments) for place in places]
        seq_len = self.plan.at(step)[1].seq_len
        batch = make_batch(rows, [place.domain for place in places], seq_len, self._separator_id)
        if self._scores is None:
            return batch
        return with_reference(batch, [self._scores[place.domain].of_row(place.segments) for place in places])

    def micro_batches(self, step: int, world_size: int, rank: int, micro_batch_size: int) -> Iterator[Batch]:
        """A rank's part of a step, at most ``micro_batch_size`` rows at a time; as many batches on every rank."""
        mine = rank_rows(self.plan.at(step)[1].batch_rows, world_size, rank)
        for start in range(0, len(mine), micro_batch_size):
            yield self.rows(step, mine[start : start + micro_batch_size])


def describe_rows(reader: BatchReader, step: int, shown: int = 8) -> str:
    """Which rows make up a step's global batch, for a person: ``code 3, 17 and 14 more; math 5``.

    Args:
        reader: Of the run.
        step: Optimizer step, counted from 0.
        shown: Row numbers of each domain that are told, at most.
    """
    numbers: list[list[int]] = [[] for _ in reader.plan.domains]
    for place in reader.places(step, range(reader.plan.at(step)[1].batch_rows)):
        numbers[place.domain].append(place.number)
    parts = []
    for name, rows in zip(reader.plan.domains, numbers, strict=True):
        told = ", ".join(map(str, sorted(rows)[:shown]))
        parts += [f"{name} {told}" + (f" and {len(rows) - shown} more" if len(rows) > shown else "")] if rows else []
    return "; ".join(parts)


def open_reader(
    packed: PackedData, plan: Plan, split: str = "train", scores: Sequence[RowScores] | None = None
) -> BatchReader:
    """A reader of a plan's batches over packed data; see ``BatchReader``.

    Raises:
        DataError: If the data or its indexes are not those that the plan was made for.
    """
    streams = [packed.stream(split, domain) for domain in plan.domains]
    return BatchReader(streams, plan, packed.separator_id, planned_rows(packed, split, plan), scores)


def validation_batches(
    stream: Tokens,
    *,
    seq_len: int,
    rows_per_batch: int,
    separator_id: int,
    max_tokens: int | None = None,
    world_size: int = 1,
    rank: int = 0,
    domain: int = 0,
) -> Iterator[Batch]:
    """A rank's part of a validation stream, read once from its beginning in rows that do not overlap.

    Every token but the stream's first is a label exactly once, up to ``max_tokens`` labels. Rows are dealt out in turn,
    and every rank gets as many batches.

    Args:
        stream: The validation tokens of one domain.
        seq_len: Tokens of a row.
        rows_per_batch: Rows of a batch.
        separator_id: The id that begins every document.
        max_tokens: Labels that count, over all ranks; all of the stream if None.
        world_size: Number of ranks.
        rank: Which part to read.
        domain: What to write into ``Batch.domain``.
    """
    labels = max(stream.num_tokens - 1, 0)
    labels = labels if max_tokens is None else min(labels, max_tokens)
    share = -(-labels // (seq_len * world_size))  # rows of every rank
    starts = [(place * world_size + rank) * seq_len for place in range(share)]
    for first in range(0, share, rows_per_batch):
        group = [Segment(start, min(seq_len, labels - start)) for start in starts[first : first + rows_per_batch]]
        rows = [read_segments(stream, [segment] if segment.length > 0 else []) for segment in group]
        yield make_batch(rows, [domain] * len(rows), seq_len, separator_id)


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Prepare items in a background thread, up to ``depth`` ahead of their reader.

    An exception of the source is raised where its item would have come. Closing the iterator ends the thread.

    Raises:
        ValueError: If the depth is below 1.
    """
    if depth < 1:
        raise ValueError(f"prefetch needs a depth of at least 1, not {depth}")
    source, end = iter(items), object()
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        ahead = deque(pool.submit(next, source, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, source, end))
            yield item  # pyright: ignore[reportReturnType] - `end` was told apart above
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
