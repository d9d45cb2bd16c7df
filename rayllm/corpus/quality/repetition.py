"""Gopher's rules of repetition: lines and paragraphs that occur again, n-grams that make up too much of a text.

The exact measures need a pass over the words for each of nine n; most texts are far below every threshold. So a cheap
upper bound on all of them is taken for the whole batch first, from one sort of its 2-grams and one of its shortest
repeated n-grams, and the exact measure only for texts whose bound is above a threshold. The result is the exact one.

Source: Rae et al. 2021, arXiv:2112.11446, appendix A.1.1, table A1; counted as datatrove's ``GopherRepetitionFilter``
counts.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from jaxtyping import Bool, Int64, UInt64
from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.corpus.quality.batch import Spans, TextBatch, mixed
from rayllm.corpus.quality.gopher import Check

Share = Annotated[float, Field(ge=0, le=1)]
Order = Annotated[int, Field(ge=2, le=16)]

#: Bits of a sort key for the position; the words of a batch are fewer, but for texts of more than a million words.
_POSITION_BITS = 20
_BASE = np.uint64(0xD6E8FEB86659FD93)


class GopherRepetition(ConfigModel):
    """Thresholds of Gopher's repetition rules; null turns a rule off."""

    max_repeated_paragraph_frac: float | None = Field(
        default=0.3, ge=0, le=1, description="gopher_paragraphs: larger share of paragraphs that occurred before."
    )
    max_repeated_paragraph_char_frac: float | None = Field(
        default=0.2, ge=0, le=1, description="gopher_paragraph_chars: larger share of characters in such paragraphs."
    )
    max_repeated_line_frac: float | None = Field(
        default=0.3, ge=0, le=1, description="gopher_lines: larger share of lines that occurred before."
    )
    max_repeated_line_char_frac: float | None = Field(
        default=0.2, ge=0, le=1, description="gopher_line_chars: larger share of characters in such lines."
    )
    max_top_ngram_frac: dict[Order, Share] = Field(
        default={2: 0.2, 3: 0.18, 4: 0.16},
        description="gopher_top_N_gram: for each N, larger share of characters in the most frequent N words in a row.",
    )
    max_repeated_ngram_frac: dict[Order, Share] = Field(
        default={5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1},
        description="gopher_repeated_N_grams: for each N, larger share of characters in N words that occurred before.",
    )

    def checks(self, batch: TextBatch) -> Iterator[Check]:
        """Which texts break each rule, in the order of table A1."""
        chars = np.maximum(batch.lengths, 1)
        paragraphs, lines = batch.paragraphs, batch.lines
        again = batch.repeated(paragraphs)
        if self.max_repeated_paragraph_frac is not None:
            yield "gopher_paragraphs", paragraphs.share(again) > self.max_repeated_paragraph_frac
        if self.max_repeated_paragraph_char_frac is not None:
            share = paragraphs.total(paragraphs.lengths * again) / chars
            yield "gopher_paragraph_chars", share > self.max_repeated_paragraph_char_frac
        if self.max_repeated_line_frac is not None:
            yield "gopher_lines", lines.share(batch.repeated_lines) > self.max_repeated_line_frac
        if self.max_repeated_line_char_frac is not None:
            share = lines.total(lines.lengths * batch.repeated_lines) / chars
            yield "gopher_line_chars", share > self.max_repeated_line_char_frac
        if self.max_top_ngram_frac:
            yield from self._top_checks(batch)
        if self.max_repeated_ngram_frac:
            yield from self._repeated_checks(batch)

    def _top_checks(self, batch: TextBatch) -> Iterator[Check]:
        shortest = min(self.max_top_ngram_frac)
        most = _most_frequent(batch, shortest)
        for n, limit in sorted(self.max_top_ngram_frac.items()):
            above = np.zeros(len(batch.texts), bool)
            bound = most * _longest(batch.words, n) > limit * batch.lengths
            for text in np.flatnonzero(bound).tolist():
                hashes, lengths = _words_of(batch, text)
                above[text] = top_ngram_chars(hashes, lengths, n) / len(batch.texts[text]) > limit
            yield f"gopher_top_{n}_gram", above

    def _repeated_checks(self, batch: TextBatch) -> Iterator[Check]:
        shortest = min(self.max_repeated_ngram_frac)
        bound = _repeated_bound(batch, shortest) / np.maximum(batch.lengths, 1)
        for n, limit in sorted(self.max_repeated_ngram_frac.items()):
            above = np.zeros(len(batch.texts), bool)
            for text in np.flatnonzero(bound > limit).tolist():
                hashes, lengths = _words_of(batch, text)
                above[text] = repeated_ngram_chars(hashes, lengths, n) / len(batch.texts[text]) > limit
            bound[above] = 0  # the slow measure is not taken again of a text that is dropped
            yield f"gopher_repeated_{n}_grams", above


def _words_of(batch: TextBatch, text: int) -> tuple[UInt64[np.ndarray, " words"], Int64[np.ndarray, " words"]]:
    first, stop = batch.words.first[text], batch.words.first[text + 1]
    return batch.word_hashes[first:stop], batch.words.lengths[first:stop]


def ngram_hashes(hashes: UInt64[np.ndarray, " words"], n: int) -> UInt64[np.ndarray, " ngrams"]:
    """A hash of every n words in a row; empty if there are fewer words."""
    count = max(len(hashes) - n + 1, 0)
    total = hashes[:count].copy()
    for offset in range(1, n):
        total *= _BASE
        total += hashes[offset : offset + count]
    return mixed(total)


def _sums(lengths: Int64[np.ndarray, " words"], n: int) -> Int64[np.ndarray, " ngrams"]:
    """Characters of every n words in a row, without the spaces between."""
    sums = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=sums[1:])
    return sums[n:] - sums[:-n]


def top_ngram_chars(hashes: UInt64[np.ndarray, " words"], lengths: Int64[np.ndarray, " words"], n: int) -> int:
    """Characters in all occurrences of the most frequent n-gram of a text, the first of them if several are.

    Args:
        hashes: A hash of each word.
        lengths: Characters of each word.
        n: Words of an n-gram; one space between two of them is counted.
    """
    if len(hashes) < n:
        return 0
    _, first, counts = np.unique(ngram_hashes(hashes, n), return_index=True, return_counts=True)
    most = counts.max()
    position = first[counts == most].min()
    return int(most) * (int(lengths[position : position + n].sum()) + n - 1)


def repeated_ngram_chars(hashes: UInt64[np.ndarray, " words"], lengths: Int64[np.ndarray, " words"], n: int) -> int:
    """Characters in n-grams that occurred before in a text; what one of them covers is counted once.

    Args:
        hashes: A hash of each word.
        lengths: Characters of each word; spaces are not counted.
        n: Words of an n-gram.
    """
    keys: Sequence[int] = ngram_hashes(hashes, n).tolist()
    chars: Sequence[int] = _sums(lengths, n).tolist() if keys else []
    seen: set[int] = set()
    repeated = position = 0
    while position < len(keys):
        if keys[position] in seen:
            repeated += chars[position]
            position += n
        else:
            seen.add(keys[position])
            position += 1
    return repeated


def _sorted_keys(batch: TextBatch, n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Sorted keys of the n-grams of all texts: equal ones lie together. Also the word where each n-gram begins.

    A key has part of the n-gram's hash above and the position below, because sorting plain numbers is several times
    faster than sorting positions by key. Two n-grams with the same part of the hash only make a bound larger.
    """
    salt = mixed(batch.words.texts.astype(np.uint64) + np.uint64(1))
    grams = ngram_hashes(batch.word_hashes ^ salt, n)
    within = batch.words.texts[: len(grams)] == batch.words.texts[n - 1 :]
    bits = np.uint64(max(_POSITION_BITS, len(grams).bit_length()))
    starts = np.flatnonzero(within)
    keys = np.sort((grams[starts] >> bits << bits) | starts.astype(np.uint64))
    return keys >> bits, (keys & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)


def _most_frequent(batch: TextBatch, n: int) -> Int64[np.ndarray, " texts"]:
    """At most so often does any sequence of n words, or more, occur in each text."""
    most = (batch.words.counts >= n).astype(np.int64)
    keys, starts = _sorted_keys(batch, n)
    edges = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]])) if len(keys) else starts
    runs = np.diff(edges)
    many = np.flatnonzero(runs > 1)
    np.maximum.at(most, batch.words.texts[starts[edges[many]]], runs[many])
    return most


def _longest(words: Spans, n: int) -> Int64[np.ndarray, " texts"]:
    """At most so many characters does a sequence of n words of each text have, with spaces."""
    longest = np.zeros(len(words.counts), np.int64)
    filled = np.flatnonzero(words.counts >= n)
    if not len(filled):
        return longest
    sums = _sums(words.lengths, n) + n - 1
    # A text's n-grams end n - 1 words before its words do: what is between two texts is left out.
    bounds = np.stack([words.first[filled], words.first[filled + 1] - n + 1], axis=1).ravel()
    longest[filled] = np.maximum.reduceat(np.append(sums, 0), bounds)[::2]
    return longest


def _repeated_bound(batch: TextBatch, n: int) -> Int64[np.ndarray, " texts"]:
    """At most so many characters of each text are in repeated sequences of n words, or of more.

    Every longer repeated sequence consists of repeated ones of n words, so the words that any of these covers are all
    that can count.
    """
    keys, starts = _sorted_keys(batch, n)
    again = starts[1:][keys[1:] == keys[:-1]]
    change = np.zeros(len(batch.words.starts) + 1, np.int64)
    np.add.at(change, again, 1)
    np.add.at(change, again + n, -1)
    covered: Bool[np.ndarray, " words"] = np.cumsum(change[:-1]) > 0
    return batch.words.total(batch.words.lengths * covered)
