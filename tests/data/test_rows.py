"""Rows of both packings: what is read, what is learnt, and what packing costs."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.data.batches import BatchReader, make_batch
from rayllm.data.mixing.plan import Plan, RowIndex, StageRow
from rayllm.data.packing.best_fit import pack_documents
from rayllm.data.packing.rows import BestFitRows, Fill, Segment, Slices, fill_of, read_segments
from rayllm.model.config import IGNORE_INDEX

SEPARATOR = 0


class Stream:
    """Documents in memory, each behind its separator; every other token has a value of its own."""

    def __init__(self, lengths, learnt=None):
        self.starts = np.cumsum(lengths) - lengths if len(lengths) else np.empty(0, np.int64)
        self.tokens = np.arange(1, sum(lengths) + 1)
        self.tokens[self.starts] = SEPARATOR
        self.learnt = None if learnt is None else np.asarray(learnt, bool)

    @property
    def num_tokens(self):
        return len(self.tokens)

    @property
    def has_mask(self):
        return self.learnt is not None

    def read(self, start, count):
        assert 0 <= start <= start + count <= self.num_tokens
        return self.tokens[start : start + count]

    def read_mask(self, start, count):
        assert 0 <= start <= start + count <= self.num_tokens
        return self.learnt[start : start + count]

    def best_fit(self, seq_len):
        return BestFitRows(pack_documents(self.starts, self.num_tokens, seq_len))


def batch_of(stream, rows, seq_len):
    pieces = [read_segments(stream, rows.segments(row)) for row in range(rows.num_rows)]
    return make_batch(pieces, [0] * len(pieces), seq_len, SEPARATOR)


def pairs_alone(stream) -> Counter:
    """What each document teaches by itself: every token, and the one after it or the end of the text."""
    ends = [*stream.starts[1:].tolist(), stream.num_tokens]
    found = Counter()
    for start, end in zip(stream.starts.tolist(), ends, strict=True):
        tokens = [*stream.tokens[start:end].tolist(), SEPARATOR]
        found.update(pairwise(tokens))
    return found


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=40)


@settings(deadline=None)
@given(lengths, st.integers(1, 30))
def test_every_token_is_read_and_predicted_as_often_as_in_its_document_alone(lengths, seq_len):
    stream = Stream(lengths)
    batch = batch_of(stream, stream.best_fit(seq_len), seq_len)
    counted = batch.labels != IGNORE_INDEX
    pairs = zip(batch.input_ids[counted].tolist(), batch.labels[counted].tolist(), strict=True)
    assert Counter(pairs) == pairs_alone(stream)
    assert (batch.input_ids[~counted] == SEPARATOR).all()


@settings(deadline=None)
@given(lengths, st.integers(2, 30))
def test_two_tokens_share_a_document_id_only_if_they_share_a_document(lengths, seq_len):
    stream = Stream(lengths)
    document = np.repeat(np.arange(len(lengths)), lengths)
    rows = stream.best_fit(seq_len)
    batch = batch_of(stream, rows, seq_len)
    for row, ids in enumerate(batch.doc_ids.tolist()):
        positions = [start + i for start, length in rows.segments(row) for i in range(length)]
        owners = [*document[positions].tolist(), *(-1 - i for i in range(seq_len - len(positions)))]
        assert len(set(zip(owners, ids, strict=True))) == len(set(owners)) == len(set(ids))


@settings(deadline=None)
@given(lengths.flatmap(lambda n: st.tuples(st.just(n), st.lists(st.booleans(), min_size=sum(n), max_size=sum(n)))))
def test_a_label_counts_if_the_mask_says_that_its_token_is_learnt(drawn):
    lengths, learnt = drawn
    stream, seq_len = Stream(lengths, learnt), 12
    expected = Counter(stream.tokens[stream.learnt].tolist())
    best = batch_of(stream, stream.best_fit(seq_len), seq_len)
    assert Counter(best.labels[best.labels != IGNORE_INDEX].tolist()) == expected
    count = (stream.num_tokens - 1) // seq_len
    slices = batch_of(stream, Slices(count, seq_len), seq_len)
    part = slice(1, count * seq_len + 1)
    expected = stream.tokens[part][stream.learnt[part]]
    assert slices.labels[slices.labels != IGNORE_INDEX].tolist() == expected.tolist()


def test_the_rest_of_a_cut_document_does_not_see_what_stands_before_it():
    stream = Stream([5, 11])  # 11 = 8 + 3: the rest shares a row with the first document
    rows = stream.best_fit(8)
    (row,) = [r for r in range(rows.num_rows) if len(rows.segments(r)) == 2]
    assert rows.segments(row) == [Segment(0, 5), Segment(13, 3)]
    batch = batch_of(stream, rows, 8)
    assert batch.input_ids[row].tolist() == [0, 2, 3, 4, 5, 14, 15, 16]
    assert batch.labels[row].tolist() == [2, 3, 4, 5, 0, 15, 16, 0]
    assert batch.doc_ids[row].tolist() == [1, 1, 1, 1, 1, 2, 2, 2]


def test_slices_and_best_fit_count_what_they_cut_and_leave_out():
    stream = Stream([3, 6, 4, 20])
    best = stream.best_fit(8)
    assert fill_of(best, stream.starts, 33, 8) == Fill(5, 4, 1, 7, 0)
    assert fill_of(best, stream.starts, 33, 8).padding_frac(8) == 7 / 40
    # Slices 0-8, 8-16, 16-24, 24-32: the second and fourth document are cut, token 32 is in no row, and so neither
    # is the fourth whole.
    assert fill_of(Slices(4, 8), stream.starts, 33, 8) == Fill(4, 4, 2, 0, 1)
    assert fill_of(Slices(0, 8), Stream([3]).starts, 3, 8) == Fill(0, 1, 1, 0, 3)


STREAMS = [Stream([3, 9, 30, 4, 17] * 20), Stream([8, 8, 1, 50] * 15)]
STAGES = (StageRow(6, 16, 5, (700, 324)), StageRow(4, 32, 3, (100, 924)))


def best_fit_reader(streams=STREAMS):
    rows = {length: [stream.best_fit(length) for stream in streams] for length in (16, 32)}
    indexes = tuple(RowIndex(n, tuple(r.num_rows for r in found), ("", "")) for n, found in rows.items())
    plan = Plan(5, {"a": streams[0].num_tokens, "b": streams[1].num_tokens}, STAGES, "best_fit", indexes)
    return BatchReader(streams, plan, SEPARATOR, rows)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("micro_batch_size", [1, 2, 100])
def test_best_fit_batches_are_the_same_for_any_ranks_and_micro_batches_from_any_step(world_size, micro_batch_size):
    whole = best_fit_reader()
    for step in range(whole.plan.total_steps):
        resumed = best_fit_reader()
        expected = whole.rows(step, range(whole.plan.at(step)[1].batch_rows))
        parts = [
            batch
            for rank in range(world_size)
            for batch in resumed.micro_batches(step, world_size, rank, micro_batch_size)
        ]
        real = [row for b in parts for row in zip(b.input_ids, b.labels, b.doc_ids, strict=True) if (row[1] >= 0).any()]
        for row, (ids, labels, doc_ids) in enumerate(real):
            assert ids.tolist() == expected.input_ids[row].tolist()
            assert labels.tolist() == expected.labels[row].tolist()
            assert doc_ids.tolist() == expected.doc_ids[row].tolist()
        assert len(real) == len(expected.input_ids)


def test_the_places_of_rows_say_what_the_batch_holds():
    reader = best_fit_reader()
    batch = reader.rows(7, range(3))
    for place, ids in zip(reader.places(7, range(3)), batch.input_ids, strict=True):
        tokens = [STREAMS[place.domain].tokens[start : start + length] for start, length in place.segments]
        held = np.concatenate(tokens)
        assert ids[: len(held)].tolist() == held.tolist()
