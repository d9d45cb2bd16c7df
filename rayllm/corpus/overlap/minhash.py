"""Texts to band hashes: two documents that share one are candidates for being near-duplicates.

A document is the set of its runs of five words. For each of 112 hash functions the signature holds the smallest hash
over the set; two signatures agree in a place with a probability equal to the Jaccard similarity s of the sets. The
places are grouped into 14 bands of 8, and documents are candidates where a whole band agrees: with probability
1 - (1 - s**8)**14, which is 0.05 at s = 0.5, 0.77 at 0.75, 0.92 at 0.8 and 0.99 at 0.85.

Source: Broder 1997, doi:10.1109/SEQUEN.1997.666900 (min-wise hashing); Indyk and Motwani 1998,
doi:10.1145/276698.276876 (bands); Penedo et al. 2024, FineWeb, arXiv:2406.17557, appendix E.1 (the parameters).
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt32, UInt64
from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.core.rng import derive_seed
from rayllm.corpus.documents import Content
from rayllm.corpus.overlap.exact import content_hash
from rayllm.corpus.overlap.ngrams import Words, blocks, mix, ngram_hashes, split_words

#: Raised whenever the same settings give other band hashes than before.
VERSION = 1
#: Next number of a sequence that ``mix`` turns into random ones (splitmix64).
_STEP = np.uint64(0x9E3779B97F4A7C15)


class NearDuplicatesConfig(ConfigModel):
    """Which documents count as near-duplicates: MinHash with locality-sensitive hashing, FineWeb's parameters."""

    ngram: int = Field(default=5, ge=1, description="Words in a run; documents are compared by their sets of runs.")
    bands: int = Field(default=14, ge=1, le=1024, description="Bands; documents that agree in one are near-duplicates.")
    rows: int = Field(default=8, ge=1, le=64, description="Hashes in a band, all of which must agree.")
    seed: int = Field(default=1, ge=0, description="Seed of the hash functions.")
    contents: list[Content] = Field(
        default=["prose", "code", "math", "chat"],
        min_length=1,
        description="Contents of sources whose documents are compared: prose, code, math, chat.",
    )

    def identity(self) -> dict[str, Any]:
        """The settings, and the version of the algorithm."""
        return {**super().identity(), "version": VERSION}

    def applies_to(self, content: Content) -> bool:
        """Whether documents of a source with this ``content`` are compared."""
        return content in self.contents

    def candidate_probability(self, jaccard: float) -> float:
        """How likely two documents of this Jaccard similarity are found."""
        return 1 - (1 - jaccard**self.rows) ** self.bands


def band_hashes(texts: Sequence[str], config: NearDuplicatesConfig) -> UInt64[np.ndarray, "texts bands"]:
    """Hash each band of the texts' signatures; the hash says which values the band has, not which band it is.

    Args:
        texts: The documents. One with fewer words than ``config.ngram`` is one run: all its words.
        config: The parameters.
    """
    minima = signatures(texts, config).reshape(len(texts), config.bands, config.rows)
    hashes = np.zeros((len(texts), config.bands), np.uint64)
    for row in range(config.rows):
        hashes = mix((hashes ^ minima[:, :, row]) + _STEP)
    return hashes


def signatures(texts: Sequence[str], config: NearDuplicatesConfig) -> UInt32[np.ndarray, "texts hashes"]:
    """The smallest hash of each text's runs of words, for each of ``bands * rows`` hash functions."""
    multipliers = _multipliers(config)
    minima = np.empty((len(texts), len(multipliers)), np.uint32)
    for first, stop in blocks(texts):
        _minima(texts[first:stop], config.ngram, multipliers, out=minima[first:stop])
    return minima


def _multipliers(config: NearDuplicatesConfig) -> UInt32[np.ndarray, " hashes"]:
    """An odd number for each hash function."""
    places = np.arange(1, config.bands * config.rows + 1, dtype=np.uint64)
    return _odd(mix(places * _STEP + np.uint64(derive_seed(config.seed, "minhash"))))


def _odd(values: UInt64[np.ndarray, " values"]) -> UInt32[np.ndarray, " values"]:
    return (values >> np.uint64(32)).astype(np.uint32) | np.uint32(1)


def _minima(texts: Sequence[str], n: int, multipliers: UInt32[np.ndarray, " hashes"], *, out: np.ndarray) -> None:
    """Fill ``out``, uint32 (texts, hashes).

    The hash functions are products modulo 2**32 with odd numbers: one to one on the odd 32-bit numbers that stand for
    the runs of words. These are random already, so each product is a random order; the odd factors make the orders
    different. (Zero, which every factor would leave smallest, is not odd.)
    """
    words = split_words(texts)
    counts = np.diff(words.bounds)
    whole = np.flatnonzero(counts >= n)
    if len(whole):
        runs = _odd(ngram_hashes(words.hashes, n))
        # Runs that go on into the next text lie between the last of one text and the first of the next.
        borders = np.stack([words.bounds[whole], words.bounds[whole + 1] - n + 1], axis=1).ravel()[:-1]
        runs = runs[: words.bounds[whole[-1] + 1] - n + 1]
        products = np.empty_like(runs)
        for place, multiplier in enumerate(multipliers):
            np.multiply(runs, multiplier, out=products)
            out[whole, place] = np.minimum.reduceat(products, borders)[::2]
    short = np.flatnonzero(counts < n)
    if len(short):
        runs = _odd(np.array([_hash_of_all(texts[index], words, index) for index in short.tolist()], np.uint64))
        out[short] = runs[:, None] * multipliers


def _hash_of_all(text: str, words: Words, index: int) -> int:
    """Hash of a text with few words by all of them; by the text itself if it has none."""
    strings = words.strings(words.bounds[index], words.bounds[index + 1])
    if not strings:
        return content_hash(text)
    return int.from_bytes(hashlib.blake2b(b" ".join(strings), digest_size=8).digest(), "little")
