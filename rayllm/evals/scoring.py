"""Token losses to scores by domain: loss, perplexity, bits per byte, surprise ratio.

In: a function from a batch to the loss of each of its tokens. Out: a ``DomainScore``, three plain sums that add over
batches and ranks, and the quantities derived from them. Bits per byte compare models with different tokenizers; the
loss per token does not.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayllm.model.config import IGNORE_INDEX


class ScoredBatch(Protocol):
    """What scoring needs of a batch: the labels, already shifted."""

    @property
    def labels(self) -> Int[Tensor, "batch seq"]:
        """The id that each position must predict, or ``IGNORE_INDEX``."""
        ...


BatchT = TypeVar("BatchT", bound=ScoredBatch)


@dataclass(frozen=True)
class DomainScore:
    """Sums over the counted labels of one domain; scores of disjoint parts add.

    Attributes:
        loss_sum: Negative log-likelihood, in nats.
        tokens: Counted labels.
        bytes: UTF-8 bytes that these labels stand for; separators stand for none.
    """

    loss_sum: float = 0.0
    tokens: int = 0
    bytes: int = 0

    def __add__(self, other: "DomainScore") -> "DomainScore":
        return DomainScore(self.loss_sum + other.loss_sum, self.tokens + other.tokens, self.bytes + other.bytes)

    @property
    def loss(self) -> float:
        """Mean loss in nats per token."""
        return self.loss_sum / self._positive(self.tokens, "tokens")

    @property
    def perplexity(self) -> float:
        """Exponential of the loss; infinite where it does not fit a float."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Mean loss in bits per UTF-8 byte of the text, whatever the tokenizer."""
        return self.loss_sum / math.log(2) / self._positive(self.bytes, "bytes")

    def _positive(self, count: int, unit: str) -> int:
        if count <= 0:
            raise ValueError(f"the score covers no {unit}: the domain's validation stream gave no label to predict")
        return count

    def to_tensor(self, device: torch.device | str = "cpu") -> Float[Tensor, "3"]:
        """The sums as float64, exact below 2**53, ready for an all-reduce."""
        return torch.tensor([self.loss_sum, self.tokens, self.bytes], dtype=torch.float64, device=device)

    @classmethod
    def from_tensor(cls, sums: Float[Tensor, "3"]) -> "DomainScore":
        """The inverse of ``to_tensor``, after a reduction."""
        loss_sum, tokens, count = sums.tolist()
        return cls(loss_sum, int(tokens), int(count))


@torch.no_grad()
def score_batches(
    token_losses: Callable[[BatchT], Float[Tensor, "batch seq"]],
    batches: Iterable[BatchT],
    token_bytes: Int[Tensor, " vocab"],
) -> DomainScore:
    """Sum the losses of all labels that count.

    The sums stay on the device until the end, in float64, so that batches do not wait for each other and the result
    does not depend on their size.

    Args:
        token_losses: Loss of each label in nats; what it says at ignored labels is not used.
        batches: Batches of one domain, on the model's device.
        token_bytes: UTF-8 bytes of each token id, 0 for special tokens.
    """
    sums: Tensor | None = None
    for batch in batches:
        counted = batch.labels != IGNORE_INDEX
        labels = batch.labels.masked_fill(~counted, 0)
        lengths = token_bytes.to(labels.device, torch.int64)[labels].masked_fill(~counted, 0)
        losses = token_losses(batch).double().masked_fill(~counted, 0.0)
        batch_sums = torch.stack([losses.sum(), counted.sum().double(), lengths.sum().double()])
        sums = batch_sums if sums is None else sums + batch_sums
    return DomainScore() if sums is None else DomainScore.from_tensor(sums)


def surprise_ratios(scores: Mapping[str, DomainScore]) -> dict[str, float]:
    """Each domain's bits per byte over the mean across domains: above 1 is harder than average for this model."""
    mean = mean_bits_per_byte(scores)
    return {domain: score.bits_per_byte / mean if mean else 1.0 for domain, score in scores.items()}


def mean_bits_per_byte(scores: Mapping[str, DomainScore]) -> float:
    """Mean over domains, each counting the same."""
    return sum(score.bits_per_byte for score in scores.values()) / len(scores)


def metrics(scores: Mapping[str, DomainScore]) -> dict[str, float]:
    """The fields of a ``validation`` record: four for each domain, and the means over domains."""
    ratios = surprise_ratios(scores)
    record: dict[str, float] = {}
    for domain, score in scores.items():
        record[f"loss/{domain}"] = score.loss
        record[f"perplexity/{domain}"] = score.perplexity
        record[f"bits_per_byte/{domain}"] = score.bits_per_byte
        record[f"surprise_ratio/{domain}"] = ratios[domain]
    record["mean_bits_per_byte"] = mean_bits_per_byte(scores)
    record["mean_loss"] = sum(score.loss for score in scores.values()) / len(scores)
    return record
