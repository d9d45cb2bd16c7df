"""Gopher's rules of quality: lengths, symbols, lists, letters and stop words.

Source: Rae et al. 2021, Scaling Language Models: Methods, Analysis & Insights from Training Gopher, arXiv:2112.11446,
appendix A.1.1, "Quality Filtering".
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int64
from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.corpus.quality.batch import Spans, TextBatch
from rayllm.corpus.quality.characters import LETTER, PLAIN, is_any

Check = tuple[str, Bool[np.ndarray, " texts"]]

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
_BULLETS = np.array([ord(char) for char in "-*\u2022\u25cf"], np.uint32)
_ELLIPSIS, _DOT = ord("\u2026"), ord(".")


class GopherQuality(ConfigModel):
    """Thresholds of Gopher's quality rules; null turns a rule off.

    The paper does not say what a word is. By default it is what stands between spaces.
    """

    marks_are_words: bool = Field(
        default=False,
        description="Whether a punctuation mark is a word of its own, as in FineWeb; few_letters is stricter then.",
    )
    min_words: int | None = Field(
        default=50, ge=1, description="gopher_few_words: fewer words than this, punctuation alone not counted."
    )
    max_words: int | None = Field(default=100_000, ge=1, description="gopher_many_words: more words than this.")
    min_mean_word_chars: float | None = Field(
        default=3, ge=0, description="gopher_short_words: mean word shorter, in characters."
    )
    max_mean_word_chars: float | None = Field(
        default=10, ge=0, description="gopher_long_words: mean word longer, in characters."
    )
    max_symbol_ratio: float | None = Field(
        default=0.1, ge=0, description="gopher_hashes, gopher_ellipses: more `#`, or more ellipses, for each word."
    )
    max_bullet_frac: float | None = Field(
        default=0.9, ge=0, le=1, description="gopher_bullets: larger share of lines in lists."
    )
    max_ellipsis_frac: float | None = Field(
        default=0.3, ge=0, le=1, description="gopher_cut_lines: larger share of lines that end with an ellipsis."
    )
    min_alpha_frac: float | None = Field(
        default=0.8, ge=0, le=1, description="gopher_few_letters: smaller share of words that have a letter."
    )
    min_stop_words: int | None = Field(
        default=2, ge=0, description="gopher_stop_words: fewer different English stop words."
    )

    def checks(self, batch: TextBatch) -> Iterator[Check]:
        """Which texts break each rule, the rules in the order of their thresholds."""
        words = batch.words if self.marks_are_words else batch.chunks
        flags, count = batch.flags_within(words), np.maximum(words.counts, 1)
        plain = is_any(flags, PLAIN)
        plain_count = words.total(plain)
        mean_chars = words.total(words.lengths * plain) / np.maximum(plain_count, 1)
        if self.min_words is not None:
            yield "gopher_few_words", plain_count < self.min_words
        if self.max_words is not None:
            yield "gopher_many_words", plain_count > self.max_words
        if self.min_mean_word_chars is not None:
            yield "gopher_short_words", mean_chars < self.min_mean_word_chars
        if self.max_mean_word_chars is not None:
            yield "gopher_long_words", mean_chars > self.max_mean_word_chars
        if self.max_symbol_ratio is not None:
            yield "gopher_hashes", _occurrences(batch, "#") / count > self.max_symbol_ratio
            ellipses = _occurrences(batch, "...") + _occurrences(batch, "\u2026")
            yield "gopher_ellipses", ellipses / count > self.max_symbol_ratio
        if self.max_bullet_frac is not None:
            bullets = np.isin(batch.chars[batch.lines.starts], _BULLETS)
            yield "gopher_bullets", batch.lines.share(bullets) > self.max_bullet_frac
        if self.max_ellipsis_frac is not None:
            yield "gopher_cut_lines", batch.lines.share(_cut_lines(batch)) > self.max_ellipsis_frac
        if self.min_alpha_frac is not None:
            yield "gopher_few_letters", words.total(is_any(flags, LETTER)) / count < self.min_alpha_frac
        if self.min_stop_words is not None:
            yield "gopher_stop_words", _stop_words(batch, words) < self.min_stop_words


def _occurrences(batch: TextBatch, part: str) -> Int64[np.ndarray, " texts"]:
    return np.fromiter((text.count(part) for text in batch.texts), np.int64, len(batch.texts))


def _cut_lines(batch: TextBatch) -> Bool[np.ndarray, " lines"]:
    """Lines that end with an ellipsis."""
    chars, ends = batch.chars, batch.lines.ends
    dots = (chars[ends - 1] == _DOT) & (chars[ends - 2] == _DOT) & (chars[ends - 3] == _DOT)
    return dots | (chars[ends - 1] == _ELLIPSIS)


def _stop_words(batch: TextBatch, words: Spans) -> Int64[np.ndarray, " texts"]:
    """How many of the stop words each text has; they are looked for as the paper writes them, in lower case."""
    found = np.zeros((len(batch.texts), len(STOP_WORDS)), bool)
    spoken = TextBatch(STOP_WORDS)
    wanted, hashes = spoken.hashes(spoken.words), batch.hashes(words)
    order = np.argsort(wanted)
    where = np.flatnonzero(np.isin(hashes, wanted))
    found[words.texts[where], order[np.searchsorted(wanted[order], hashes[where])]] = True
    return found.sum(axis=1)
