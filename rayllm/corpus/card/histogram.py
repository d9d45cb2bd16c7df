"""Histograms of positive numbers at every scale: small, mergeable, and the same whatever the order of merging."""

from collections.abc import Mapping
from typing import Any

import numpy as np

#: Numbers share a bucket that agree in exponent and in this many bits of the mantissa: buckets are 1.6 % wide, so that
#: one document in a billion is told apart as precisely as half of them.
_MANTISSA_BITS = 6
_SHIFT = np.uint64(52 - _MANTISSA_BITS)

#: Weight by bucket. Buckets are ordered as their numbers are.
Histogram = dict[int, int]


def histogram(values: np.ndarray[Any, Any], weights: np.ndarray[Any, Any]) -> Histogram:
    """Sum integer weights by the bucket of their values (not negative, float64)."""
    buckets, inverse = np.unique(values.astype(np.float64).view(np.uint64) >> _SHIFT, return_inverse=True)
    totals = np.zeros(len(buckets), np.int64)
    np.add.at(totals, inverse, weights)
    return dict(zip(buckets.tolist(), totals.tolist(), strict=True))


def merge(first: Mapping[int, int], second: Mapping[int, int]) -> Histogram:
    """The sum of two histograms."""
    return {bucket: first.get(bucket, 0) + second.get(bucket, 0) for bucket in sorted({*first, *second})}


def edge(bucket: int) -> float:
    """The smallest number of a bucket."""
    return float((np.array([bucket], np.uint64) << _SHIFT).view(np.float64)[0])


def quantile(counts: Mapping[int, int], share: float) -> float:
    """The lower edge of the bucket in which a share of the weight is reached; 0 for an empty histogram."""
    wanted = share * sum(counts.values())
    total = 0
    for bucket in sorted(counts):
        total += counts[bucket]
        if total >= wanted:
            return edge(bucket)
    return 0.0


def octaves(counts: Mapping[int, int]) -> list[tuple[float, int]]:
    """Weight by powers of two: for each from the smallest to the largest, its lower edge and the weight above it."""
    sums: dict[int, int] = {}
    for bucket, weight in counts.items():
        exponent = int(np.floor(np.log2(max(edge(bucket), 1.0))))
        sums[exponent] = sums.get(exponent, 0) + weight
    return [(2.0**exponent, sums.get(exponent, 0)) for exponent in range(min(sums), max(sums) + 1)] if sums else []
