"""Which domain a text looks like, judged without any language model: a check on samples that the model cannot bias.

In: training texts by domain. Out: a classifier of texts by their character n-grams (naive Bayes, equal priors).

Source: Cavnar and Trenkle 1994, "N-gram-based text categorization"; hashed features after Weinberger et al. 2009,
"Feature hashing for large scale multitask learning", arXiv:0902.2206.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ORDERS = (1, 2, 3, 4)
#: Many more than the n-grams of a few million characters, so that few share one.
BUCKETS = 1 << 20
SMOOTHING = 0.1
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Identifier:
    """Log-probability of each hashed n-gram in each domain.

    Attributes:
        domains: Names, in the order of the rows.
        log_probabilities: Natural logarithms, shape (domain, bucket).
    """

    domains: tuple[str, ...]
    log_probabilities: NDArray[np.float32]

    def identify(self, text: str) -> str | None:
        """The likeliest domain of a text; ``None`` where there is nothing to judge by: blank text."""
        if not text.strip():
            return None
        scores = self.log_probabilities[:, ngram_buckets(text)].sum(axis=1, dtype=np.float64)
        return self.domains[int(scores.argmax())]


def fit_identifier(texts: Mapping[str, Iterable[str]]) -> Identifier:
    """Count the n-grams of each domain's training texts.

    Raises:
        ValueError: If a domain has no text.
    """
    rows = []
    for domain, parts in texts.items():
        counts = np.zeros(BUCKETS, np.int64)
        for text in parts:
            counts += np.bincount(ngram_buckets(text), minlength=BUCKETS)
        if not counts.any():
            raise ValueError(f"domain {domain!r} has no text to learn its n-grams from")
        rows.append(np.log((counts + SMOOTHING) / (counts.sum() + SMOOTHING * BUCKETS)))
    return Identifier(tuple(texts), np.array(rows, np.float32))


def ngram_buckets(text: str) -> NDArray[np.int64]:
    """The bucket of every n-gram of 1 to 4 characters in a text; the same on every machine."""
    characters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    hashes = np.zeros(len(characters), np.uint64)
    buckets = []
    for order in ORDERS:
        if order > len(characters):
            break
        hashes = (hashes[: len(characters) - order + 1] + characters[order - 1 :] + np.uint64(1)) * _MULTIPLIER
        hashes ^= hashes >> np.uint64(29)
        buckets.append((hashes >> np.uint64(44)).astype(np.int64))
    return np.concatenate(buckets) if buckets else np.zeros(0, np.int64)
