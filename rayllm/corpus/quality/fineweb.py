"""FineWeb's own rules, on top of Gopher's and C4's: punctuation at line ends, short lines, repeated lines, lists.

Source: Penedo et al. 2024, The FineWeb Datasets, arXiv:2406.17557, section 3.5; the rule of newlines is in the
code that made FineWeb (datatrove's ``FineWebQualityFilter``) and not in the paper.
"""

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.corpus.quality.batch import TextBatch
from rayllm.corpus.quality.characters import TERMINAL, is_any
from rayllm.corpus.quality.gopher import Check


class FineWeb(ConfigModel):
    """Thresholds of FineWeb's rules; null turns a rule off."""

    min_punctuated_line_frac: float | None = Field(
        default=0.12, ge=0, le=1, description="fineweb_punctuation: smaller share of lines that end a sentence."
    )
    max_short_line_frac: float | None = Field(
        default=0.67, ge=0, le=1, description="fineweb_short_lines: larger share of short lines."
    )
    short_line_chars: int = Field(default=30, ge=1, description="Longest line that is short, in characters.")
    max_repeated_line_char_frac: float | None = Field(
        default=0.1,
        ge=0,
        le=1,
        description="fineweb_repeated_lines: larger share of characters in lines that occurred before.",
    )
    max_newlines_per_word: float | None = Field(
        default=0.3, ge=0, description="fineweb_newlines: more line ends for each word, as in lists."
    )

    def checks(self, batch: TextBatch) -> Iterator[Check]:
        """Which texts break each rule."""
        lines = batch.lines
        if self.min_punctuated_line_frac is not None:
            punctuated = is_any(batch.flags[lines.ends - 1], TERMINAL)
            yield "fineweb_punctuation", lines.share(punctuated) < self.min_punctuated_line_frac
        if self.max_short_line_frac is not None:
            yield "fineweb_short_lines", lines.share(lines.lengths <= self.short_line_chars) > self.max_short_line_frac
        newlines = batch.line_ends
        if self.max_repeated_line_char_frac is not None:
            chars = lines.total(lines.lengths * batch.repeated_lines)
            share = chars / np.maximum(batch.lengths - newlines, 1)
            yield "fineweb_repeated_lines", share > self.max_repeated_line_char_frac
        if self.max_newlines_per_word is not None:
            yield "fineweb_newlines", newlines / np.maximum(batch.words.counts, 1) > self.max_newlines_per_word
