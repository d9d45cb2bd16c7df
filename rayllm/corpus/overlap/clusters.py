"""Band hashes to the documents that go: pairs from equal bands, clusters from pairs, one survivor of each cluster.

A document's number is its rank: the smaller one survives. Validation documents have smaller numbers than all training
documents, so that a training document near one never stays; among equals the first by part and row stays. Clusters are
connected components, so neither the order of the pairs nor how the work was divided can change what survives.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int8, Int64, Integer, UInt64

NEAR_DUPLICATE, NEAR_VALIDATION = 3, 4
#: Names of the reasons in counts and data cards.
REASONS = {NEAR_DUPLICATE: "near_duplicate", NEAR_VALIDATION: "near_validation"}

_ROW_BITS = 32
_PART_BITS = 30
_TRAINING = np.int64(1 << (_ROW_BITS + _PART_BITS))


@dataclass(frozen=True)
class Losses:
    """The documents that do not survive.

    Attributes:
        documents: Their numbers, ascending.
        reasons: ``NEAR_DUPLICATE``, or ``NEAR_VALIDATION`` (a training document in a validation document's cluster).
        survivors: The document that stays instead of each.
    """

    documents: Int64[np.ndarray, " losses"]
    reasons: Int8[np.ndarray, " losses"]
    survivors: Int64[np.ndarray, " losses"]


def document_numbers(
    part: int, rows: Integer[np.ndarray, " rows"], is_validation: Bool[np.ndarray, " rows"]
) -> Int64[np.ndarray, " rows"]:
    """Number documents by rank: validation before training, then by part, then by row.

    Raises:
        ValueError: If the part is not below 2**30, or a row not below 2**32.
    """
    if not 0 <= part < 1 << _PART_BITS or (len(rows) and not 0 <= rows.min() <= rows.max() < 1 << _ROW_BITS):
        raise ValueError(f"part {part} or its rows are out of range: a corpus has less than 2**30 parts of 2**32 rows")
    return np.where(is_validation, np.int64(0), _TRAINING) + (np.int64(part) << _ROW_BITS) + rows.astype(np.int64)


def places(documents: Int64[np.ndarray, " documents"]) -> tuple[np.ndarray, np.ndarray]:
    """Part and row of documents, int64 both; see ``document_numbers``."""
    return (documents & ~_TRAINING) >> _ROW_BITS, documents & ((1 << _ROW_BITS) - 1)


def find_pairs(
    bands: Integer[np.ndarray, " entries"] | int,
    hashes: UInt64[np.ndarray, " entries"],
    documents: Int64[np.ndarray, " entries"],
) -> Int64[np.ndarray, "pairs 2"]:
    """Join the documents that share a band's hash.

    A bucket of ``k`` documents gives ``k - 1`` pairs, each of two neighbours by number: enough to make it one cluster,
    however large it is.

    Args:
        bands: Band of each entry, or the band of all.
        hashes: Its hash.
        documents: Whose hash it is.
    """
    one_band = isinstance(bands, int)
    order = np.lexsort((documents, hashes) if one_band else (documents, hashes, bands))
    bucket, document = hashes[order], documents[order]
    same = (bucket[1:] == bucket[:-1]) & (document[1:] != document[:-1])
    if not one_band:
        same &= bands[order][1:] == bands[order][:-1]
    return np.stack([document[:-1][same], document[1:][same]], axis=1)


def find_losses(pairs: Int64[np.ndarray, "pairs 2"]) -> Losses:
    """Say which documents of the pairs' clusters do not survive.

    Args:
        pairs: Numbers of documents that are near one another, in any order, repeated or not.
    """
    documents, ends = np.unique(pairs, return_inverse=True)
    ends = ends.reshape(-1, 2)
    smallest = documents[connected_components(len(documents), ends[:, 0], ends[:, 1])]
    lost = smallest != documents
    documents, survivors = documents[lost], smallest[lost]
    leaked = (documents >= _TRAINING) & (survivors < _TRAINING)
    return Losses(documents, np.where(leaked, NEAR_VALIDATION, NEAR_DUPLICATE).astype(np.int8), survivors)


def connected_components(
    count: int, first: Integer[np.ndarray, " edges"], second: Integer[np.ndarray, " edges"]
) -> Int64[np.ndarray, " nodes"]:
    """For each node of an undirected graph, the smallest node of its component.

    Each round hooks the larger root of every edge onto the smaller one, then lets all nodes point to their roots; edges
    within a component fall away. A few rounds are enough: a chain of two million nodes in random order takes 0.3 s.

    Source: Shiloach and Vishkin 1982, doi:10.1016/0196-6774(82)90008-6, with the smallest label as root.
    """
    roots = np.arange(count, dtype=np.int64)
    while len(first):
        np.minimum.at(roots, np.maximum(first, second), np.minimum(first, second))
        while not np.array_equal(roots, above := roots[roots]):
            roots = above
        first, second = roots[first], roots[second]
        open_ = first != second
        first, second = first[open_], second[open_]
    return roots
