"""Rows of tokens to batches: the labels are shifted here, and only here.

In: token streams and a ``Plan``. Out: batches of any rows of any step, the same whatever the number of ranks and the
micro-batch size. A reader has no state; where it reads is the caller's step.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from rayllm.core.errors import DataError
from rayllm.data.mixture import Mixture
from rayllm.data.plan import Plan
from rayllm.model.config import IGNORE_INDEX

#: The number of a row that only fills up a rank's share; none of its labels counts.
PADDING_ROW = -1
Item = TypeVar("Item")


class Tokens(Protocol):
    """A row of tokens that can be read anywhere; ``data.shards.TokenStream`` is one."""

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        ...

    def read(self, start: int, count: int) -> Int64[np.ndarray, " count"]:
        """The tokens ``start`` to ``start + count``."""
        ...


@dataclass(frozen=True)
class Batch:
    """Some rows, ready for the model; all tensors are int64.

    Attributes:
        input_ids: What the model reads.
        labels: What each position should predict: the token after it, or ``IGNORE_INDEX``.
        doc_ids: Number of separators in the row up to and including each position; a new document begins at each one.
        domain: Index of each row's domain in the plan; 0 for padding rows, whose labels are all ignored.
    """

    input_ids: Int[Tensor, "rows seq"]
    labels: Int[Tensor, "rows seq"]
    doc_ids: Int[Tensor, "rows seq"]
    domain: Int[Tensor, " rows"]

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""
        return Batch(
            *(t.to(device, non_blocking=True) for t in (self.input_ids, self.labels, self.doc_ids, self.domain))
        )


def make_batch(
    rows: Sequence[Int64[np.ndarray, " tokens"]], domain: Sequence[int], seq_len: int, separator_id: int
) -> Batch:
    """Stack rows and shift their labels.

    Args:
        rows: At most ``seq_len + 1`` tokens each: a row of n tokens has n - 1 labels, the rest is padding.
        domain: The domain of each row.
        seq_len: Length of the batch.
        separator_id: Begins every document; fills the padding too.
    """
    tokens = np.full((len(rows), seq_len + 1), separator_id, np.int64)
    lengths = np.asarray([len(row) for row in rows], np.int64)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = row
    unseen = np.arange(1, seq_len + 1) >= lengths[:, None]
    labels = np.where(unseen, IGNORE_INDEX, tokens[:, 1:])
    input_ids = np.ascontiguousarray(tokens[:, :-1])
    doc_ids = (input_ids == separator_id).cumsum(axis=1)
    return Batch(*map(torch.from_numpy, (input_ids, labels, doc_ids, np.asarray(domain, np.int64))))


def rank_rows(batch_rows: int, world_size: int, rank: int) -> list[int]:
    """The rows of the global batch that a rank takes: a contiguous share, as long on every rank.

    Returns:
        Row numbers, then ``PADDING_ROW`` where the rows do not go round.
    """
    share = -(-batch_rows // world_size)
    return [row if row < batch_rows else PADDING_ROW for row in range(rank * share, (rank + 1) * share)]


class BatchReader:
    """Reads the batches of a plan.

    Args:
        streams: The training tokens of each domain, in the plan's order.
        plan: The run's plan.
        separator_id: The id that begins every document.

    Raises:
        DataError: If the streams are not those that the plan was made for.
    """

    def __init__(self, streams: Sequence[Tokens], plan: Plan, separator_id: int) -> None:
        sizes = [stream.num_tokens for stream in streams]
        if sizes != list(plan.domain_tokens.values()):
            raise DataError(
                "the packed data is not the data that this run was planned with",
                why=f"the plan has {plan.domain_tokens}; the streams have {sizes} tokens",
                fix="restore the packed artifact, or start a new run",
            )
        self._streams, self._plan, self._separator_id = list(streams), plan, separator_id
        self._mixture = Mixture(plan)
        self._nothing = np.empty(0, np.int64)

    def rows(self, step: int, row_indices: Sequence[int]) -> Batch:
        """Some rows of a step's global batch.

        Args:
            step: Optimizer step, counted from 0.
            row_indices: Numbers of rows in the global batch, or ``PADDING_ROW``.
        """
        index, stage, step_in_stage = self._plan.at(step)
        numbers = np.asarray(row_indices, np.int64)
        real = numbers != PADDING_ROW
        assert (numbers[real] < stage.batch_rows).all(), "a row beyond the global batch"
        domains, first = self._mixture.rows(index, step_in_stage * stage.batch_rows + np.maximum(numbers, 0))
        tokens = [
            self._streams[domain].read(start, stage.seq_len + 1) if is_real else self._nothing
            for domain, start, is_real in zip(domains.tolist(), first.tolist(), real.tolist(), strict=True)
        ]
        return make_batch(tokens, np.where(real, domains, 0).tolist(), stage.seq_len, self._separator_id)

    def micro_batches(self, step: int, world_size: int, rank: int, micro_batch_size: int) -> Iterator[Batch]:
        """A rank's part of a step, at most ``micro_batch_size`` rows at a time; as many batches on every rank."""
        mine = rank_rows(self._plan.at(step)[1].batch_rows, world_size, rank)
        for start in range(0, len(mine), micro_batch_size):
            yield self.rows(step, mine[start : start + micro_batch_size])


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
        group = starts[first : first + rows_per_batch]
        counts = [min(seq_len, labels - start) for start in group]
        rows = [stream.read(min(s, labels), n + 1 if n > 0 else 0) for s, n in zip(group, counts, strict=True)]
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
