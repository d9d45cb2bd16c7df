import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rayllm.data.batches import Batch
from rayllm.evals.ngram import LAMBDAS, Bigram, fit_bigram, sample_tokens, score_bigram
from rayllm.model.config import IGNORE_INDEX


@dataclass(frozen=True)
class ArrayStream:
    ids: NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        assert 0 <= start <= start + count <= len(self.ids)
        return self.ids[start : start + count]


def batch(ids: Sequence[int] | NDArray[np.int64], labels: Sequence[int] | NDArray[np.int64]) -> Batch:
    row, following = (torch.as_tensor(values)[None] for values in (ids, labels))
    return Batch(row, following, torch.ones_like(row), torch.zeros(1, dtype=torch.int64))


def by_hand(weight: float) -> Bigram:
    """The tokens 0 1 0 1 0 2 over a vocabulary of 4: pairs 01 01 10 10 02."""
    return Bigram(
        unigram=np.array([4, 3, 2, 1]) / 10,
        contexts=np.array([3, 2, 0, 0]),
        pairs=np.array([0 * 4 + 1, 0 * 4 + 2, 1 * 4 + 0]),
        counts=np.array([2, 1, 2]),
        weight=weight,
    )


def test_counts_are_those_counted_by_hand() -> None:
    fitted, expected = fit_bigram(np.array([0, 1, 0, 1, 0, 2]), 4), by_hand(0.5)
    np.testing.assert_array_equal(fitted.unigram, expected.unigram)
    np.testing.assert_array_equal(fitted.contexts, expected.contexts)
    np.testing.assert_array_equal(fitted.pairs, expected.pairs)
    np.testing.assert_array_equal(fitted.counts, expected.counts)


def test_probabilities_are_those_computed_by_hand() -> None:
    found = by_hand(0.5).probabilities(np.array([0, 1, 1, 3, 2]), np.array([1, 1, 3, 2, 0]))
    seen_pair = 0.5 * 2 / 3 + 0.5 * 0.3
    unseen_pair = 0.5 * 0.3
    unseen_token = 0.5 * 0.1
    np.testing.assert_allclose(found, [seen_pair, unseen_pair, unseen_token, 0.2, 0.4])


def test_the_score_is_in_nats_over_the_bytes_of_the_labels_that_count() -> None:
    score = score_bigram(by_hand(0.5), [batch([0, 1, 0, 1], [1, IGNORE_INDEX, 1, 0])], torch.tensor([0, 3, 1, 1]))
    expected = -2 * math.log(0.5 * 2 / 3 + 0.5 * 0.3) - math.log(0.5 + 0.5 * 0.4)
    assert (score.tokens, score.bytes) == (3, 6)
    assert score.loss_sum == pytest.approx(expected)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60))
def test_probabilities_after_any_token_sum_to_one(ids: list[int]) -> None:
    bigram = fit_bigram(np.array(ids), 5)
    for before in range(5):
        total = sum(float(bigram.probabilities(np.array(before), np.array(after))) for after in range(5))
        assert total == pytest.approx(1.0)


def test_regular_text_is_left_to_the_bigram_and_random_text_to_the_unigram() -> None:
    regular = fit_bigram(np.tile(np.arange(8), 500), 8)
    noise = fit_bigram(np.random.default_rng(0).integers(0, 2000, 4000), 2000)
    assert regular.weight == pytest.approx(LAMBDAS[-1])
    assert noise.weight <= LAMBDAS[3]


def test_a_bigram_beats_a_unigram_on_text_with_order() -> None:
    ids = np.random.default_rng(1).permutation(np.arange(50)).repeat(1)
    ids = np.tile(ids, 40)
    ordered, shuffled = fit_bigram(ids, 50), fit_bigram(np.random.default_rng(2).permutation(ids), 50)
    ones = torch.ones(50, dtype=torch.int64)
    text = [batch(ids[:-1], ids[1:])]
    assert score_bigram(ordered, text, ones).loss < 0.2 < score_bigram(shuffled, text, ones).loss


def test_sampling_covers_the_whole_stream_within_the_cap() -> None:
    stream = ArrayStream(np.arange(10_000))
    ids = sample_tokens(stream, 640)
    assert len(ids) == 640
    assert (ids[0], ids[-1]) == (0, 9_999)
    assert len(np.unique(ids)) == 640
    np.testing.assert_array_equal(sample_tokens(stream, 20_000), stream.ids)


@pytest.mark.parametrize("ids", [[1], [0, 4], [-1, 0]])
def test_tokens_that_cannot_be_counted_are_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="two tokens or more, all below 4"):
        fit_bigram(np.array(ids), 4)
