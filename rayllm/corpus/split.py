"""Which split a document belongs to: decided by its content and the seed alone, so that no scheduling can change it.

A document's *key* is a number in [0, 1) made of the hash of its text and the seed. Held out are the documents with the
smallest keys, training takes those that follow, and what lies above a limit on bytes is left out. So one histogram of
bytes by key is all that needs to be known of a domain to hold out at least one document and to keep to the limits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rayllm.core.rng import derive_seed
from rayllm.corpus.card.histogram import Histogram, edge

TRAIN, VALIDATION, OVER_CAP = 0, 1, 2


@dataclass(frozen=True)
class Bounds:
    """Keys below ``validation`` are held out, those from there to below ``train`` are for training."""

    validation: float
    train: float


def document_keys(hashes: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
    """Keys of documents by their content hashes.

    Args:
        hashes: uint64 content hashes.
        seed: The run's seed.

    Returns:
        float64 in [0, 1), uniform and independent of the hashes' order.

    Source: the finaliser is splitmix64, Steele et al. 2014, doi:10.1145/2660193.2660195.
    """
    x = hashes.astype(np.uint64) ^ np.uint64(derive_seed(seed, "split"))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)).astype(np.float64) * 2.0**-53


def plan_bounds(
    sizes: Histogram,
    smallest: float,
    *,
    heldout_frac: float,
    validation_bytes: int | None = None,
    train_bytes: int | None = None,
) -> Bounds:
    """Choose the bounds of a training domain.

    Args:
        sizes: Bytes of all its documents by key.
        smallest: The smallest key, which is always held out.
        heldout_frac: Share of the documents to hold out; with 0 nothing is.
        validation_bytes: Most bytes to hold out (but at least one document is); the rest stays in training.
        train_bytes: Most bytes to train on; kept to within the width of a bucket.
    """
    validation = 0.0
    if heldout_frac > 0:
        capped = min(heldout_frac, _bound(sizes, 0.0, validation_bytes))
        validation = max(capped, float(np.nextafter(smallest, 1.0)))
    return Bounds(validation, _bound(sizes, validation, train_bytes))


def plan_validation_bounds(sizes: Histogram, validation_bytes: int | None) -> Bounds:
    """Choose the bounds of a validation source: all of it, or as much as fits."""
    bound = _bound(sizes, 0.0, validation_bytes)
    return Bounds(bound, bound)


def assign_split(keys: np.ndarray[Any, Any], bounds: Bounds) -> np.ndarray[Any, Any]:
    """``TRAIN``, ``VALIDATION`` or ``OVER_CAP`` for each key, as int8."""
    split = np.where(keys < bounds.train, TRAIN, OVER_CAP)
    return np.where(keys < bounds.validation, VALIDATION, split).astype(np.int8)


def _bound(sizes: Histogram, start: float, limit: int | None) -> float:
    """The largest key such that the buckets between it and ``start`` hold no more than ``limit`` bytes."""
    total = 0
    for bucket in sorted(sizes):
        if limit is not None and edge(bucket + 1) > start and (total := total + sizes[bucket]) > limit:
            return max(edge(bucket), start)
    return 1.0
