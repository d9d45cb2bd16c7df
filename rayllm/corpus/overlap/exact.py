"""Exact duplicates across all domains: which copy stays depends on the corpus alone, never on scheduling.

Two documents are duplicates when their texts are equal up to case and white space. The copy that stays is a validation
document if there is one (so that training never sees it), and then the first by domain, unit and row.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

KEPT, DUPLICATE, IN_VALIDATION = 0, 1, 2
#: Names of the reasons in counts and data cards.
REASONS = {DUPLICATE: "duplicate", IN_VALIDATION: "in_validation"}

_PARTITION_INPUT_BYTES = 8 << 30
_MAX_PARTITIONS = 1024


def content_hash(text: str) -> int:
    """64-bit hash of a text, ignoring case and the kind and amount of white space.

    Among a billion documents the chance that any two different ones share a hash is 2.7 %.
    """
    normal = " ".join(text.lower().split())
    return int.from_bytes(hashlib.blake2b(normal.encode(), digest_size=8).digest(), "little")


def content_hashes(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """``content_hash`` of each text, as uint64."""
    return np.fromiter(map(content_hash, texts), np.uint64, len(texts))


def partition_count(input_bytes: int) -> int:
    """How many parts the hashes are divided into, so that each fits a task: a few million documents."""
    return min(_MAX_PARTITIONS, 1 + input_bytes // _PARTITION_INPUT_BYTES)


def partition_of(hashes: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """The part that each uint64 hash belongs to, from its upper 32 bits, as int64."""
    return (((hashes >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


def find_duplicates(hashes: np.ndarray[Any, Any], is_validation: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Say for each document whether it stays.

    Args:
        hashes: uint64 content hashes, in the order in which documents have precedence.
        is_validation: Whether each document is for validation; these have precedence over all others.

    Returns:
        ``KEPT``, ``DUPLICATE``, or ``IN_VALIDATION`` (a training document equal to a validation document), as int8.
    """
    reasons = np.zeros(len(hashes), np.int8)
    if not len(hashes):
        return reasons
    order = np.lexsort((np.arange(len(hashes)), ~is_validation, hashes))
    ordered = hashes[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]]
    survivor = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    leaked = is_validation[survivor] & ~is_validation[order]
    reasons[order] = np.where(first, KEPT, np.where(leaked, IN_VALIDATION, DUPLICATE))
    return reasons
