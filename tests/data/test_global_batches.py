"""The global batch of a step is one thing, however many ranks read it, in whatever portions, resumed wherever.

Every token of the streams is its own name here (domain and position), so that equal ids are the same tokens.
"""

import functools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayllm.data.batches import BatchReader
from rayllm.data.mixing.curriculum import build_plan
from rayllm.data.mixing.plan import Plan, RowIndex
from rayllm.data.mixing.stages import CurriculumStage
from rayllm.data.mixing.weights import MixtureConfig
from rayllm.data.packing.best_fit import pack_documents
from rayllm.data.packing.rows import BestFitRows
from rayllm.model.config import IGNORE_INDEX

WORLD_SIZES = (1, 2, 3, 4, 8)
DOMAINS = ("english", "maths", "code")
SIZES = (6007, 3001, 1201)
SEPARATOR = 10**9  # only in padding: the names of the tokens are below
FIELDS = ("input_ids", "labels", "doc_ids", "domain")


@dataclass(frozen=True)
class Named:
    """A stream whose tokens are named by domain and position."""

    domain: int
    num_tokens: int
    has_mask: bool = False

    def read(self, start, count):
        assert 0 <= start <= start + count <= self.num_tokens
        return self.domain * 10**6 + np.arange(start, start + count)


STREAMS = [Named(number, size) for number, size in enumerate(SIZES)]


@functools.cache
def best_fit_rows(domain, seq_len):
    rng = np.random.default_rng(domain)
    lengths = np.maximum(rng.lognormal(2.5, 1, SIZES[domain]).astype(np.int64), 1)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return BestFitRows(pack_documents(starts[starts < SIZES[domain]], SIZES[domain], seq_len))


def index_of(seq_len):
    rows = tuple(best_fit_rows(domain, seq_len).num_rows for domain in range(len(DOMAINS)))
    return RowIndex(seq_len, rows, ("0" * 64,) * len(DOMAINS))


def make_reader(plan):
    rows = None
    if plan.packing == "best_fit":
        lengths = {stage.seq_len for stage in plan.stages}
        rows = {length: [best_fit_rows(domain, length) for domain in range(len(DOMAINS))] for length in lengths}
    return BatchReader(STREAMS, plan, SEPARATOR, rows)


def make_plan(stages, packing, max_steps=40, seed=3):
    return build_plan(
        mixture=MixtureConfig(temperature=1.5, max_epochs=None),
        curriculum=[CurriculumStage(**stage) for stage in stages],
        seq_len=32,
        global_batch_tokens=32 * 5,
        domain_tokens=dict(zip(DOMAINS, SIZES, strict=True)),
        seed=seed,
        max_steps=max_steps,
        index=index_of if packing == "best_fit" else None,
    )


#: Lengths, batches and weights change; in the middle the weights move.
STAGES = (
    {"steps": 9, "seq_len": 16, "global_batch_tokens": 16 * 7},
    {"frac": 0.5, "weights": {"english": 0, "maths": 1, "code": 3}, "interpolate": "linear"},
    {"frac": 0.5, "weights": "uniform", "global_batch_tokens": 32 * 12},
)


def whole(batches):
    """The rows of some batches, in order, without padding rows."""
    batches = list(batches)
    joined = [torch.cat([getattr(batch, name) for batch in batches]) for name in FIELDS]
    real = (joined[1] != IGNORE_INDEX).any(dim=1)
    return [part[real] for part in joined]


def global_batch(reader, step, world_size, micro_batch_size):
    """What all ranks read together: rank after rank, each in its micro-batches."""
    ranks = [list(reader.micro_batches(step, world_size, rank, micro_batch_size)) for rank in range(world_size)]
    assert len({tuple(batch.input_ids.shape for batch in batches) for batches in ranks}) == 1
    return whole(batch for batches in ranks for batch in batches)


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.fault("P5", "1, 2, 3, 4 or 8 ranks, any micro-batch", "every step has the same rows")
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_every_step_is_the_same_batch_for_any_number_of_ranks_and_any_micro_batch(packing, world_size):
    plan = make_plan(STAGES, packing)
    reader = make_reader(plan)
    assert len(plan.stages) > 3  # the moving stage has several rows
    for step in range(plan.total_steps):
        rows = plan.at(step)[1].batch_rows
        expected = whole([reader.rows(step, range(rows))])
        assert len(expected[0]) == rows
        for micro_batch_size in range(1, rows + 1):
            assert same(global_batch(reader, step, world_size, micro_batch_size), expected)


lengths = st.sampled_from([{"frac": 1}, {"steps": 6}, {"tokens": 1200}])
weights = st.sampled_from([None, "natural", "uniform", {"english": 1, "maths": 2, "code": 0}])


@st.composite
def plans(draw):
    """Curricula of one to three stages with whatever changes between them, in both packings."""
    stages = []
    for number in range(draw(st.integers(1, 3))):
        seq_len = draw(st.sampled_from([8, 16, 32]))
        stage = {
            "seq_len": seq_len,
            "global_batch_tokens": seq_len * draw(st.integers(1, 11)),
            "weights": draw(weights),
        }
        if number and draw(st.booleans()):
            stage["interpolate"] = "linear"
        stages.append(stage | draw(lengths))
    stages.append({"frac": 1.0})
    shares = sum("frac" in stage for stage in stages)
    stages = [stage | ({"frac": 1 / shares} if "frac" in stage else {}) for stage in stages]
    packing = draw(st.sampled_from(["concat", "best_fit"]))
    return make_plan(stages, packing, max_steps=600, seed=draw(st.integers(0, 99)))


@pytest.mark.fault("P5", "resumed at any step by other ranks", "the same ids as without")
@settings(deadline=None, max_examples=40)
@given(plans(), st.data())
def test_a_run_resumed_anywhere_by_other_ranks_goes_on_with_the_same_ids(plan, data):
    straight = make_reader(plan)
    resumed = make_reader(Plan.from_json(plan.to_json()))  # what a checkpoint holds: the table and a step
    world_size = data.draw(st.sampled_from(WORLD_SIZES))
    micro_batch_size = data.draw(st.integers(1, 12))
    first = data.draw(st.integers(0, plan.total_steps - 1))
    for step in range(first, min(first + 4, plan.total_steps)):
        expected = global_batch(straight, step, 1, 1000)
        assert same(global_batch(resumed, step, world_size, micro_batch_size), expected)


@settings(deadline=None, max_examples=40)
@given(plans(), st.data())
def test_the_ranks_of_a_step_share_its_rows_without_gap_or_double(plan, data):
    step = data.draw(st.integers(0, plan.total_steps - 1))
    rows = plan.at(step)[1].batch_rows
    reader = make_reader(plan)
    batch = reader.rows(step, range(rows))
    assert len(batch.input_ids) == rows
    for world_size in WORLD_SIZES:
        ids, labels, _, domains = global_batch(reader, step, world_size, data.draw(st.integers(1, 12)))
        assert torch.equal(ids, batch.input_ids)
        assert torch.equal(domains, batch.domain)
        counted = labels != IGNORE_INDEX
        # The token after the last one of a stream is its first; otherwise every label is the next token.
        next_ids = ids + 1
        wraps = (next_ids % 10**6) == torch.tensor(SIZES)[domains][:, None]
        next_ids[wraps] -= torch.tensor(SIZES)[domains][:, None].expand_as(ids)[wraps]
        assert torch.equal(labels[counted], next_ids[counted])


@pytest.mark.fault("P5", "stages shorter than an epoch", "each row once before any a second time")
@pytest.mark.parametrize("packing", ["concat", "best_fit"])
def test_an_epoch_goes_on_across_stages_and_pieces_until_each_row_was_read_once(packing):
    """Stages far shorter than a period, weights that move: still every row once before any a second time."""
    stages = [
        {"steps": 10, "weights": {"english": 1, "maths": 1, "code": 0}},
        {"frac": 1, "weights": {"english": 1, "maths": 0, "code": 2}, "interpolate": "linear"},
    ]
    plan = make_plan(stages, packing, max_steps=34)
    assert len(plan.stages) > 4
    assert 0.9 < max(plan.epochs().values()) < 1.3
    reader, read = make_reader(plan), {domain: [] for domain in range(len(DOMAINS))}
    for step in range(plan.total_steps):
        for place in reader.places(step, range(plan.at(step)[1].batch_rows)):
            read[place.domain].append(place.number)
    for domain, numbers in read.items():
        available = plan.units(plan.stages[0])[domain]
        assert len(numbers) > 20
        assert len(set(numbers[:available])) == min(len(numbers), available)
