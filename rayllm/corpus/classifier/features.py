"""Texts to sparse rows of numbers: the square root of how often each n-gram of words and of characters occurs.

N-grams are told apart by a hash of a few bits (Weinberger et al. 2009, arXiv:0902.2206). A row has length one: squared,
it is the distribution of the text's n-grams, so that long texts and short ones compare (the Hellinger kernel; Perronnin
et al. 2010, doi:10.1109/CVPR.2010.5539914). On pages with human labels roots told good from bad better than
presence, logarithms and inverse document frequencies did.

Words are those of ``ngrams``, without case; characters are as they stand, case and line ends too. All texts of a block
go through numpy together. A row does not depend on the texts beside it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt32
from pydantic import Field

from rayllm.core.config import ConfigModel, Count
from rayllm.corpus.overlap.ngrams import ngram_hashes, split_words

#: Characters of a block: its n-grams, four bytes each, are sorted in a core's cache.
BLOCK_CHARS = 1 << 16
_KEY_BITS = 32
#: Odd numbers with mixed bits: those of FNV-1a, of Knuth's multiplicative hash and of MurmurHash3's finaliser.
_BASE, _SPREAD, _FINAL = np.uint32(0x01000193), np.uint32(0x9E3779B1), np.uint32(0x85EBCA6B)
_END = "\n"

Order = Annotated[int, Field(ge=1, le=8)]


class NgramFeatures(ConfigModel):
    """Which n-grams of a text are counted."""

    hash_bits: int = Field(default=18, ge=10, le=22, description="N-grams share two to this many weights, by hash.")
    word_ngrams: list[Order] = Field(default=[1, 2], description="Words in a row that are counted together.")
    char_ngrams: list[Order] = Field(default=[2, 3, 4], description="Characters in a row that are counted together.")
    max_chars: Count = Field(
        default=20_000, ge=100, description="Characters at the beginning of a text that are looked at."
    )


@dataclass(frozen=True)
class FeatureRows:
    """The rows of several texts; an entry for every different n-gram of each.

    Attributes:
        count: Number of texts.
        rows: The text of each entry, ascending.
        columns: Its n-gram's hash.
        values: The root of the n-gram's share of the text's n-grams.
    """

    count: int
    rows: Int64[np.ndarray, " entries"]
    columns: UInt32[np.ndarray, " entries"]
    values: Float32[np.ndarray, " entries"]

    def times(
        self, weights: Float32[np.ndarray, " columns"] | Float64[np.ndarray, " columns"]
    ) -> Float64[np.ndarray, " texts"]:
        """For each text the sum of its values times the weights, added up one after another in float64."""
        return np.bincount(self.rows, self.values * weights.take(self.columns), self.count)

    def transposed_times(self, factors: Float64[np.ndarray, " texts"], columns: int) -> Float64[np.ndarray, " columns"]:
        """For each of so many columns the sum of its values times the factor of their text."""
        return np.bincount(self.columns, self.values * factors.take(self.rows), columns)


def joined_rows(blocks: Iterable[FeatureRows], entries: int) -> Iterator[FeatureRows]:
    """The same rows in larger blocks, each of about so many entries: what costs time for each block is spread."""
    held: list[FeatureRows] = []
    for block in blocks:
        if held and sum(len(one.rows) for one in held) + len(block.rows) > entries:
            yield _joined(held)
            held = []
        held.append(block)
    if held:
        yield _joined(held)


def _joined(blocks: Sequence[FeatureRows]) -> FeatureRows:
    firsts = np.cumsum([0, *(block.count for block in blocks)])
    return FeatureRows(
        count=int(firsts[-1]),
        rows=np.concatenate([block.rows + first for block, first in zip(blocks, firsts[:-1], strict=True)]),
        columns=np.concatenate([block.columns for block in blocks]),
        values=np.concatenate([block.values for block in blocks]),
    )


def feature_rows(texts: Sequence[str], features: NgramFeatures) -> Iterator[FeatureRows]:
    """Count the n-grams of texts.

    Args:
        texts: Cleaned texts.
        features: What is counted.

    Returns:
        The rows of all texts, in order, block by block.
    """
    limit = 1 << (_KEY_BITS - features.hash_bits)
    held: list[str] = []
    chars = 0
    for text in texts:
        part = text[: features.max_chars]
        if held and (chars + len(part) > BLOCK_CHARS or len(held) == limit):
            yield _count(held, features)
            held, chars = [], 0
        held.append(part)
        chars += len(part)
    if held:
        yield _count(held, features)


def _count(texts: list[str], features: NgramFeatures) -> FeatureRows:
    bits = np.uint32(features.hash_bits)
    keys = np.concatenate([*_word_keys(texts, features), *_char_keys(texts, features), np.empty(0, np.uint32)])
    keys.sort()
    edges = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]])) if len(keys) else np.zeros(1, int)
    found, counts = keys[edges[:-1]], np.diff(edges)
    rows = (found >> bits).astype(np.int64)
    totals = np.bincount(rows, counts, len(texts))
    values = np.sqrt(counts / totals.take(rows)).astype(np.float32)
    return FeatureRows(len(texts), rows, found & np.uint32((1 << features.hash_bits) - 1), values)


def _word_keys(texts: list[str], features: NgramFeatures) -> Iterator[UInt32[np.ndarray, " ngrams"]]:
    """The number of the text above, the hash below, of every n-gram of words."""
    if not features.word_ngrams:
        return
    words = split_words(texts)
    numbers = np.repeat(np.arange(len(texts), dtype=np.uint32), np.diff(words.bounds)) << np.uint32(features.hash_bits)
    for n in features.word_ngrams:
        hashes = (ngram_hashes(words.hashes, n) >> np.uint64(64 - features.hash_bits)).astype(np.uint32)
        first, last = numbers[: len(hashes)], numbers[n - 1 :]
        yield (first | hashes)[first == last]


def _char_keys(texts: list[str], features: NgramFeatures) -> Iterator[UInt32[np.ndarray, " ngrams"]]:
    """The same of characters; a text is followed by line ends, so that its last characters begin n-grams too."""
    if not features.char_ngrams:
        return
    longest = max(features.char_ngrams)
    padding = _END * longest
    joined = padding.join([*texts, ""])
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4") * _SPREAD
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    numbers = np.repeat(np.arange(len(texts), dtype=np.uint32) << np.uint32(features.hash_bits), lengths + longest)
    inside = _inside(lengths, longest)
    rolling = np.zeros(len(codes), np.uint32)
    for n in range(1, longest + 1):
        # The hash of what begins here and has n characters, from that which has one less.
        rolling = rolling[: len(codes) - n + 1] * _BASE + codes[n - 1 :]
        if n in features.char_ngrams:
            hashes = (rolling ^ (rolling >> np.uint32(15))) * _FINAL >> np.uint32(_KEY_BITS - features.hash_bits)
            yield (numbers[: len(hashes)] | hashes)[inside[: len(hashes)]]


def _inside(lengths: Int64[np.ndarray, " texts"], padding: int) -> np.ndarray[Any, Any]:
    """Which characters are of a text and not of the padding after it."""
    inside = np.ones(int(lengths.sum()) + padding * len(lengths), bool)
    ends = np.cumsum(lengths + padding)[:, None]
    inside[ends - np.arange(1, padding + 1)] = False
    return inside
