import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rayllm.evals.scoring import DomainScore, metrics, score_batches, surprise_ratios
from rayllm.model.config import IGNORE_INDEX


@dataclass(frozen=True)
class Rows:
    """A batch whose losses are given."""

    labels: Tensor
    losses: Tensor


TOKEN_BYTES = torch.tensor([0, 1, 2, 5], dtype=torch.uint16)


def given_losses(batch: Rows) -> Tensor:
    return batch.losses


def test_sums_count_only_labels_that_are_not_ignored() -> None:
    batch = Rows(torch.tensor([[1, 3, IGNORE_INDEX], [0, 2, 2]]), torch.tensor([[0.5, 1.0, 99.0], [2.0, 0.25, 0.25]]))
    score = score_batches(given_losses, [batch], TOKEN_BYTES)
    assert score == DomainScore(loss_sum=4.0, tokens=5, bytes=1 + 5 + 0 + 2 + 2)
    assert score.loss == pytest.approx(0.8)
    assert score.perplexity == pytest.approx(math.exp(0.8))
    assert score.bits_per_byte == pytest.approx(4.0 / math.log(2) / 10)


def test_a_loss_that_is_not_finite_at_an_ignored_label_does_not_count() -> None:
    batch = Rows(torch.tensor([[1, IGNORE_INDEX]]), torch.tensor([[1.0, math.nan]]))
    assert score_batches(given_losses, [batch], TOKEN_BYTES) == DomainScore(1.0, 1, 1)


def test_uniform_guessing_over_bytes_costs_eight_bits_per_byte() -> None:
    labels = torch.arange(256).reshape(8, 32)
    batch = Rows(labels, torch.full((8, 32), math.log(256)))
    score = score_batches(given_losses, [batch], torch.ones(256, dtype=torch.uint16))
    assert score.bits_per_byte == pytest.approx(8.0)
    assert score.perplexity == pytest.approx(256.0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 7))
def test_the_score_does_not_depend_on_how_rows_are_batched(ids: list[int], rows: int) -> None:
    labels = torch.tensor(ids).reshape(-1, 1)
    losses = torch.arange(len(ids)).reshape(-1, 1) * 0.125
    whole = score_batches(given_losses, [Rows(labels, losses)], TOKEN_BYTES)
    parts = [Rows(labels[i : i + rows], losses[i : i + rows]) for i in range(0, len(ids), rows)]
    assert score_batches(given_losses, parts, TOKEN_BYTES) == whole
    assert sum((score_batches(given_losses, [part], TOKEN_BYTES) for part in parts), DomainScore()) == whole


def test_gradients_are_off_while_scoring() -> None:
    weight = torch.ones(1, requires_grad=True)
    seen: list[bool] = []

    def losses(batch: Rows) -> Tensor:
        result = batch.losses * weight
        seen.append(result.requires_grad)
        return result

    score_batches(losses, [Rows(torch.tensor([[1]]), torch.tensor([[1.0]]))], TOKEN_BYTES)
    assert seen == [False]


def test_sums_survive_the_tensor_of_an_all_reduce() -> None:
    score = DomainScore(loss_sum=0.1, tokens=2**40 + 1, bytes=2**52 + 1)
    assert DomainScore.from_tensor(score.to_tensor()) == score
    assert DomainScore.from_tensor(score.to_tensor() + score.to_tensor()) == score + score


def test_surprise_is_relative_to_the_mean_of_the_domains() -> None:
    scores = {"easy": DomainScore(math.log(2), 1, 1), "hard": DomainScore(3 * math.log(2), 1, 1)}
    assert surprise_ratios(scores) == pytest.approx({"easy": 0.5, "hard": 1.5})


def test_a_validation_record_has_exactly_the_fields_of_the_contract() -> None:
    scores = {"math": DomainScore(20.0, 10, 40), "code": DomainScore(30.0, 10, 20)}
    record = metrics(scores)
    names = ("loss", "perplexity", "bits_per_byte", "surprise_ratio")
    assert set(record) == {f"{name}/{domain}" for name in names for domain in scores} | {
        "mean_bits_per_byte",
        "mean_loss",
    }
    assert record["mean_loss"] == pytest.approx(2.5)
    assert record["mean_bits_per_byte"] == pytest.approx((0.5 + 1.5) / math.log(2) / 2)
    assert all(type(value) is float for value in record.values())


def test_an_empty_domain_is_named_not_divided_by_zero() -> None:
    with pytest.raises(ValueError, match="covers no tokens"):
        _ = score_batches(given_losses, [], TOKEN_BYTES).loss


def test_a_diverged_loss_has_infinite_perplexity() -> None:
    assert DomainScore(1e6, 10, 10).perplexity == math.inf
