"""A batch of texts as arrays: characters, and the words, lines and paragraphs found in them, each computed once.

All texts of a batch lie one after another in one array of code points, so that a rule is a handful of array operations
for hundreds of documents. Parts of texts are ``Spans``: where each begins and ends, and which are of which text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt16, UInt32, UInt64

from rayllm.corpus.quality.characters import SPACE, code_points, flags_of, is_any
from rayllm.corpus.quality.words import word_bounds

#: Characters of a batch: arrays of eight bytes for each stay in a core's cache.
BATCH_CHARS = 1 << 17

_NEWLINE = 10
#: Base of the rolling hash: any odd number with mixed bits; its inverse modulo 2**64 undoes a shift.
_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@dataclass(frozen=True)
class Spans:
    """Parts of the texts of a batch, in order.

    Attributes:
        starts: First character of each part, in the batch.
        ends: One after its last.
        first: For each text, its first part; and at the end the number of parts.
    """

    starts: Int64[np.ndarray, " parts"]
    ends: Int64[np.ndarray, " parts"]
    first: Int64[np.ndarray, " texts_plus_1"]

    @cached_property
    def lengths(self) -> Int64[np.ndarray, " parts"]:
        """Characters of each part."""
        return self.ends - self.starts

    @cached_property
    def counts(self) -> Int64[np.ndarray, " texts"]:
        """Parts of each text."""
        return np.diff(self.first)

    @cached_property
    def texts(self) -> Int64[np.ndarray, " parts"]:
        """The text of each part."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    def total(self, values: Shaped[np.ndarray, " parts"]) -> Int64[np.ndarray, " texts"]:
        """Sum of whole numbers, or count of true ones, over the parts of each text."""
        sums = np.zeros(len(values) + 1, np.int64)
        np.cumsum(values, out=sums[1:])
        return np.diff(sums[self.first])

    def share(self, which: Bool[np.ndarray, " parts"]) -> Shaped[np.ndarray, " texts"]:
        """Share of the parts of each text that are true; 0 where there is none."""
        return self.total(which) / np.maximum(self.counts, 1)


class TextBatch:
    """Texts that rules look at together.

    Args:
        texts: Cleaned texts; ``batches`` cuts long lists.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        # Spaces around every text, so that the neighbours of any character can be looked at without a check; those
        # before the first are the last ones, by Python's negative positions.
        self.chars: UInt32[np.ndarray, " chars"] = code_points("\n" + "\n".join(texts) + "\n\n\n\n")
        self.flags: UInt16[np.ndarray, " chars"] = flags_of(self.chars)
        self.lengths: Int64[np.ndarray, " texts"] = np.fromiter(map(len, texts), np.int64, len(texts))
        self.starts: Int64[np.ndarray, " texts"] = np.cumsum(self.lengths + 1) - self.lengths

    @cached_property
    def space(self) -> Bool[np.ndarray, " chars"]:
        """Which characters are spaces."""
        return is_any(self.flags, SPACE)

    def count(self, which: Bool[np.ndarray, " chars"]) -> Int64[np.ndarray, " texts"]:
        """Characters of each text that are true."""
        return np.diff(np.searchsorted(np.flatnonzero(which), np.append(self.starts, len(self.chars))))

    @cached_property
    def chunks(self) -> Spans:
        """What stands between spaces."""
        edges = np.flatnonzero(self.space[1:] != self.space[:-1]) + 1
        return self._spans(edges[0::2], edges[1::2])

    @cached_property
    def words(self) -> Spans:
        """Words, with punctuation apart; see ``words``."""
        return self._spans(*word_bounds(self.chars, self.flags, self.space))

    def flags_within(self, words: Spans) -> UInt16[np.ndarray, " words"]:
        """The flags of all of a word's characters together; of words or chunks, which have only spaces between."""
        flags = np.bitwise_or.reduceat(self.flags, words.starts) if len(words.starts) else self.flags[:0]
        return flags & ~np.uint16(SPACE)

    @cached_property
    def word_flags(self) -> UInt16[np.ndarray, " words"]:
        """The flags of any of a word's characters."""
        return self.flags_within(self.words)

    @cached_property
    def newlines(self) -> Int64[np.ndarray, " newlines"]:
        """Positions of line ends; the batch begins with one and every text is followed by one."""
        return np.flatnonzero(self.chars == _NEWLINE)

    @cached_property
    def _raw_lines(self) -> Int64[np.ndarray, " lines"]:
        """For each line that is not blank its number in the batch, blank ones counted."""
        bounds = np.searchsorted(self.chunks.starts, self.newlines)
        return np.flatnonzero(np.diff(bounds))

    @cached_property
    def lines(self) -> Spans:
        """Lines that are not blank, without the space around them."""
        bounds = np.searchsorted(self.chunks.starts, self.newlines)
        raw = self._raw_lines
        return self._spans(self.chunks.starts[bounds[raw]], self.chunks.ends[bounds[raw + 1] - 1])

    @cached_property
    def paragraphs(self) -> Spans:
        """Lines with no blank line between them, taken together."""
        lines, raw = self.lines, self._raw_lines
        new = np.ones(len(raw), bool)
        new[1:] = np.diff(raw) > 1
        new[lines.first[:-1][lines.counts > 0]] = True
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(raw)) - 1 if len(raw) else first
        return self._spans(lines.starts[first], lines.ends[last])

    @cached_property
    def repeated_lines(self) -> Bool[np.ndarray, " lines"]:
        """Which lines occurred before in their text."""
        return self.repeated(self.lines)

    @cached_property
    def line_ends(self) -> Int64[np.ndarray, " texts"]:
        """Newlines within each text."""
        found = np.searchsorted(self.newlines, np.stack([self.starts, self.starts + self.lengths]))
        return found[1] - found[0]

    def _spans(self, starts: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> Spans:
        return Spans(starts, ends, np.append(np.searchsorted(starts, self.starts), len(starts)))

    @cached_property
    def _prefix_hashes(self) -> UInt64[np.ndarray, " chars_plus_1"]:
        """Sums of characters times powers of the base: a difference of two is the hash of what lies between."""
        sums = np.zeros(len(self.chars) + 1, np.uint64)
        np.cumsum((self.chars + np.uint32(1)) * powers(_BASE, len(self.chars)), out=sums[1:])
        return sums

    def hashes(self, spans: Spans) -> UInt64[np.ndarray, " parts"]:
        """A 64-bit hash of the text of each part, the same wherever it stands (Karp and Rabin 1987, modulo 2**64)."""
        sums = self._prefix_hashes
        return mixed((sums[spans.ends] - sums[spans.starts]) * powers(_INVERSE, len(self.chars))[spans.starts])

    @cached_property
    def word_hashes(self) -> UInt64[np.ndarray, " words"]:
        """A hash of each word."""
        return self.hashes(self.words)

    def repeated(self, spans: Spans) -> Bool[np.ndarray, " parts"]:
        """Which parts occurred before in their text."""
        keys = self.hashes(spans) ^ mixed(spans.texts.astype(np.uint64) + np.uint64(1))
        order = np.argsort(keys, kind="stable")
        again = np.zeros(len(keys), bool)
        again[order[1:][keys[order[1:]] == keys[order[:-1]]]] = True
        return again


_POWERS: dict[int, np.ndarray[Any, Any]] = {}


def powers(base: int, count: int) -> UInt64[np.ndarray, " count"]:
    """The first powers of a base, modulo 2**64; kept between calls."""
    if len(_POWERS.get(base, ())) < count:
        factors = np.full(max(count, BATCH_CHARS + 4096), base, np.uint64)
        factors[0] = 1
        _POWERS[base] = np.multiply.accumulate(factors)
    return _POWERS[base][:count]


def mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Spread what differs over all bits (the end of SplitMix64)."""
    values = (values ^ (values >> np.uint64(29))) * _MIX
    return values ^ (values >> np.uint64(32))


def batches(texts: Sequence[str]) -> Iterator[TextBatch]:
    """Cut a list of texts into batches of bounded size, in order."""
    held: list[str] = []
    chars = 0
    for text in texts:
        if held and chars + len(text) > BATCH_CHARS:
            yield TextBatch(held)
            held, chars = [], 0
        held.append(text)
        chars += len(text)
    if held:
        yield TextBatch(held)
