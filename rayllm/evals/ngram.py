"""A bigram of tokens: what a model must beat before it has learnt more than which word follows which.

In: the training stream of a domain, and batches of its validation text. Out: the score of the batches under an
interpolated bigram that was counted on the stream: of the same tokens as the model is scored on.

Source: Jelinek and Mercer 1980, "Interpolated estimation of Markov source parameters from sparse data"; Chen and
Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 2.3.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray

from rayllm.data.batches import Batch
from rayllm.evals.scoring import DomainScore, score_batches

#: Weights of the bigram that tuning chooses from.
LAMBDAS = np.linspace(0.02, 0.98, 49)
TUNING_FRAC = 0.1
SPANS = 64

Ids = NDArray[np.int64]


class Tokens(Protocol):
    """A stream of packed tokens."""

    @property
    def num_tokens(self) -> int:
        """Length of the stream."""
        ...

    def read(self, start: int, count: int) -> Ids:
        """``count`` tokens from ``start`` on."""
        ...


@dataclass(frozen=True)
class Bigram:
    """``P(b | a) = weight * c(ab) / c(a) + (1 - weight) * (c(b) + 1) / (N + V)``; an unseen ``a`` leaves the unigram.

    Attributes:
        unigram: Probability of each token, add-one smoothed, shape (vocab,).
        contexts: How often each token was followed by another, shape (vocab,).
        pairs: Sorted keys ``a * vocab + b`` of the pairs seen.
        counts: How often each was seen.
        weight: Share of the bigram.
    """

    unigram: NDArray[np.float64]
    contexts: Ids
    pairs: Ids
    counts: Ids
    weight: float

    def probabilities(self, before: Ids, after: Ids) -> NDArray[np.float64]:
        """Probability of each token, given the one before it; of the arrays' shape."""
        seen, follows, alone = self._parts(before, after)
        return np.where(seen, self.weight * follows + (1 - self.weight) * alone, alone)

    def _parts(self, before: Ids, after: Ids) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
        keys = before * len(self.unigram) + after
        places = np.minimum(np.searchsorted(self.pairs, keys), max(len(self.pairs) - 1, 0))
        found = self.pairs[places] == keys if len(self.pairs) else np.zeros(keys.shape, bool)
        together = np.where(found, self.counts[places] if len(self.pairs) else 0, 0)
        contexts = self.contexts[before]
        return contexts > 0, together / np.maximum(contexts, 1), self.unigram[after]


def fit_bigram(ids: Ids, vocab_size: int) -> Bigram:
    """Count a bigram and choose its weight.

    The weight is the one that makes the last tenth of the tokens likeliest under counts of the rest; then all of them
    are counted.

    Args:
        ids: Training tokens, at least two.
        vocab_size: Number of token ids, seen or not.

    Raises:
        ValueError: If there are fewer than two tokens, or an id outside the vocabulary.
    """
    if len(ids) < 2 or ids.min() < 0 or ids.max() >= vocab_size:
        raise ValueError(f"a bigram needs two tokens or more, all below {vocab_size}")
    cut = min(len(ids) - 1, max(2, round(len(ids) * (1 - TUNING_FRAC))))
    weight = _likeliest_weight(_count(ids[:cut], vocab_size, 0.5), ids[cut - 1 :])
    return _count(ids, vocab_size, weight)


def _count(ids: Ids, vocab_size: int, weight: float) -> Bigram:
    unigram = (np.bincount(ids, minlength=vocab_size) + 1.0) / (len(ids) + vocab_size)
    pairs, counts = np.unique(ids[:-1] * vocab_size + ids[1:], return_counts=True)
    return Bigram(unigram, np.bincount(ids[:-1], minlength=vocab_size), pairs, counts, weight)


def _likeliest_weight(bigram: Bigram, ids: Ids) -> float:
    seen, follows, alone = bigram._parts(ids[:-1], ids[1:])
    follows, alone = follows[seen], alone[seen]
    scores = [float(np.log(weight * follows + (1 - weight) * alone).sum()) for weight in LAMBDAS]
    return float(LAMBDAS[int(np.argmax(scores))])


def score_bigram(bigram: Bigram, batches: Iterable[Batch], token_bytes: Int[torch.Tensor, " vocab"]) -> DomainScore:
    """Score every label that counts, as a language model is scored on the same batches.

    Args:
        bigram: The model.
        batches: On the CPU.
        token_bytes: UTF-8 bytes of each id.
    """

    def token_losses(batch: Batch) -> torch.Tensor:
        labels = batch.labels.clamp(min=0)  # those that are ignored are no ids
        return torch.from_numpy(-np.log(bigram.probabilities(batch.input_ids.numpy(), labels.numpy())))

    return score_batches(token_losses, batches, token_bytes)


def sample_tokens(stream: Tokens, max_tokens: int) -> Ids:
    """At most ``max_tokens`` tokens in equal spans spread evenly over a stream, in its order."""
    if stream.num_tokens <= max_tokens:
        return stream.read(0, stream.num_tokens)
    spans = max(1, min(SPANS, max_tokens))
    length = max_tokens // spans
    starts = np.linspace(0, stream.num_tokens - length, spans).astype(int)
    return np.concatenate([stream.read(int(start), length) for start in starts])
