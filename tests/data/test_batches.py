import threading
import time
from itertools import count

import numpy as np
import pytest
import torch

from rayllm.core.errors import DataError
from rayllm.data.batches import (
    PADDING_ROW,
    BatchReader,
    describe_rows,
    make_batch,
    prefetch,
    rank_rows,
    validation_batches,
)
from rayllm.data.mixing.plan import Plan, StageRow
from rayllm.data.packing.rows import Piece
from rayllm.model.config import IGNORE_INDEX

SEPARATOR = 3


class Stream:
    """Tokens in memory; the separator comes up about every 13th time."""

    def __init__(self, tokens, mask=None):
        self.tokens = np.asarray(tokens, np.int64)
        self.mask = mask

    @classmethod
    def random(cls, size, seed, low=4):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(low, 1000, size)
        tokens[rng.random(size) < 1 / 13] = SEPARATOR
        tokens[0] = SEPARATOR
        return cls(tokens)

    @property
    def num_tokens(self):
        return len(self.tokens)

    def read(self, start, count):
        assert 0 <= start <= start + count <= len(self.tokens)
        return self.tokens[start : start + count].copy()

    @property
    def has_mask(self):
        return self.mask is not None

    def read_mask(self, start, count):
        assert 0 <= start <= start + count <= len(self.tokens)
        return self.mask[start : start + count]


STREAMS = [Stream.random(size, seed) for seed, size in enumerate((5000, 3001, 901))]
STAGES = (StageRow(5, 16, 7, (512, 384, 128)), StageRow(4, 32, 5, (100, 24, 900)))
PLAN = Plan(11, {name: s.num_tokens for name, s in zip(("en", "maths", "code"), STREAMS, strict=True)}, STAGES)


def make_reader():
    return BatchReader(STREAMS, PLAN, SEPARATOR)


def joined(batches):
    batches = list(batches)
    return [torch.cat([getattr(b, name) for b in batches]) for name in ("input_ids", "labels", "doc_ids", "domain")]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 5, 100])
@pytest.mark.parametrize("step", [0, 3, 8])
def test_the_union_of_all_ranks_is_the_global_batch(world_size, micro_batch_size, step):
    whole = joined(make_reader().micro_batches(step, 1, 0, 1000))
    ranks = [list(make_reader().micro_batches(step, world_size, r, micro_batch_size)) for r in range(world_size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert len({tuple(b.input_ids.shape for b in batches) for batches in ranks}) == 1
    parts = joined(batch for batches in ranks for batch in batches)
    real = (parts[1] != IGNORE_INDEX).any(dim=1)
    for part, expected in zip(parts, whole, strict=True):
        assert torch.equal(part[real], expected)
    assert (parts[1][~real] == IGNORE_INDEX).all()


def test_a_reader_made_anew_at_any_step_goes_on_with_the_same_rows():
    straight = make_reader()
    for step in range(PLAN.total_steps):
        here, resumed = (joined(reader.micro_batches(step, 1, 0, 3)) for reader in (straight, make_reader()))
        assert all(torch.equal(a, b) for a, b in zip(here, resumed, strict=True))


def test_every_label_is_the_next_token_of_the_stream():
    for step in range(PLAN.total_steps):
        batch = make_reader().rows(step, range(5))
        assert torch.equal(batch.labels[:, :-1], batch.input_ids[:, 1:])
        for ids, label, domain in zip(batch.input_ids, batch.labels[:, -1], batch.domain, strict=True):
            tokens = STREAMS[int(domain)].tokens
            windows = np.lib.stride_tricks.sliding_window_view(tokens, len(ids) + 1)
            assert (windows == np.append(ids.numpy(), int(label))).all(axis=1).any()


def test_copying_the_input_predicts_nothing():
    stream = Stream(np.random.default_rng(0).integers(4, 1000, 20_001))
    plan = Plan(1, {"noise": 20_001}, (StageRow(10, 32, 16, (1024,)),))
    batch = BatchReader([stream], plan, SEPARATOR).rows(0, range(16))
    assert (batch.input_ids == batch.labels).float().mean() < 0.02


def test_documents_are_counted_by_their_separators():
    batch = make_batch([[Piece(np.array([7, 8, 3, 9, 3, 3, 5]))]], [2], 6, SEPARATOR)
    assert batch.doc_ids.tolist() == [[0, 0, 1, 1, 2, 3]]
    assert batch.labels.tolist() == [[8, 3, 9, 3, 3, 5]]  # the end of a text is learnt as its separator
    assert batch.domain.tolist() == [2]


def test_ranks_take_contiguous_shares_of_equal_length():
    assert [rank_rows(7, 3, rank) for rank in range(3)] == [[0, 1, 2], [3, 4, 5], [6, PADDING_ROW, PADDING_ROW]]
    assert rank_rows(2, 8, 5) == [PADDING_ROW]


def test_streams_of_other_data_than_the_plan_are_refused():
    with pytest.raises(DataError, match="not the data that this run was planned with"):
        BatchReader([*STREAMS[:2], Stream.random(900, 2)], PLAN, SEPARATOR)


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize(("size", "max_tokens"), [(901, None), (897, None), (901, 500), (901, 512), (2, None)])
def test_validation_reads_each_label_once_over_all_ranks(world_size, size, max_tokens):
    stream = Stream(STREAMS[2].tokens[:size])
    ranks = [
        list(
            validation_batches(
                stream,
                seq_len=32,
                rows_per_batch=3,
                separator_id=SEPARATOR,
                max_tokens=max_tokens,
                world_size=world_size,
                rank=rank,
            )
        )
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    rows = [list(joined(batches)[1]) for batches in ranks]
    labels = torch.cat([row for group in zip(*rows, strict=True) for row in group])
    expected = stream.tokens[1 : 1 + (max_tokens or size)]
    assert labels[labels != IGNORE_INDEX].tolist() == expected.tolist()
    for batches in ranks:
        inputs, labels, *_ = joined(batches)
        seen = labels[:, 1:] != IGNORE_INDEX
        assert torch.equal(inputs[:, 1:][seen], labels[:, :-1][seen])


def test_an_empty_validation_stream_gives_no_batch():
    assert not list(validation_batches(Stream([3]), seq_len=8, rows_per_batch=2, separator_id=SEPARATOR))


def test_prefetch_keeps_the_order_and_works_ahead():
    made = []

    def source():
        for number in range(6):
            made.append(number)
            yield number

    items = prefetch(source(), 3)
    assert next(items) == 0
    deadline = time.monotonic() + 5
    while len(made) < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert made == [0, 1, 2, 3]
    assert list(items) == [1, 2, 3, 4, 5]


def test_prefetch_raises_what_its_source_raised_in_its_place():
    def source():
        yield 1
        raise DataError("a shard is gone")

    items = prefetch(source(), 4)
    assert next(items) == 1
    with pytest.raises(DataError, match="a shard is gone"):
        next(items)


def test_closing_prefetch_ends_its_thread():
    items = prefetch(count(), 2)
    assert next(items) == 0
    assert any(thread.name.startswith("prefetch") for thread in threading.enumerate())
    items.close()
    assert not any(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_prefetch_needs_room_for_one_item():
    with pytest.raises(ValueError, match="depth of at least 1"):
        next(prefetch([1], 0))


def test_the_rows_of_a_step_are_told_by_domain_and_number():
    reader = make_reader()
    places = reader.places(6, range(PLAN.at(6)[1].batch_rows))
    for shown in (1, 8):
        told = dict(part.split(" ", 1) for part in describe_rows(reader, 6, shown).split("; "))
        for index, name in enumerate(PLAN.domains):
            numbers = sorted(place.number for place in places if place.domain == index)
            listed = ", ".join(map(str, numbers[:shown]))
            rest = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
            assert told.get(name, "") == listed + rest
