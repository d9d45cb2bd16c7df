"""Rules that hold for any kind of text, code too: lengths, lines, letters, phrases.

The thresholds for code are those of Codex (Chen et al. 2021, arXiv:2107.03374, section 3.1) and StarCoder (Li et al.
2023, arXiv:2305.06161, section 3.2).
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.corpus.quality.batch import TextBatch
from rayllm.corpus.quality.characters import DIGIT, LETTER, is_any
from rayllm.corpus.quality.gopher import Check


class PlainRules(ConfigModel):
    """Thresholds of the rules for any text; null turns a rule off."""

    min_words: int | None = Field(
        default=None, ge=1, description="too_short: fewer words than this, words being what stands between spaces."
    )
    max_chars: int | None = Field(default=2_000_000, ge=1, description="too_long: more characters than this.")
    max_repeated_line_frac: float | None = Field(
        default=None, ge=0, le=1, description="repeated_lines: larger share of lines that occurred before in the text."
    )
    max_line_chars: int | None = Field(default=None, ge=1, description="long_line: a line with more characters.")
    max_mean_line_chars: int | None = Field(
        default=None, ge=1, description="long_lines: lines longer than this on average."
    )
    min_alphanumeric_frac: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="low_alphanumeric: smaller share of letters and digits among the characters.",
    )
    drop_phrases: list[str] = Field(default=[], description="boilerplate: any of these occurs, in whatever case.")

    def plain_checks(self, batch: TextBatch) -> Iterator[Check]:
        """Which texts break each rule; blank lines are no lines."""
        lines = batch.lines
        if self.max_chars is not None:
            yield "too_long", batch.lengths > self.max_chars
        if self.min_words is not None:
            yield "too_short", batch.chunks.counts < self.min_words
        if self.max_repeated_line_frac is not None:
            yield "repeated_lines", lines.share(batch.repeated_lines) > self.max_repeated_line_frac
        if self.max_line_chars is not None:
            yield "long_line", lines.total(lines.lengths > self.max_line_chars) > 0
        if self.max_mean_line_chars is not None:
            yield "long_lines", lines.total(lines.lengths) > self.max_mean_line_chars * lines.counts
        if self.min_alphanumeric_frac is not None:
            alphanumeric = batch.count(is_any(batch.flags, LETTER | DIGIT))
            yield "low_alphanumeric", alphanumeric < self.min_alphanumeric_frac * batch.lengths
        if self.drop_phrases:
            yield "boilerplate", _mentions(batch, self.drop_phrases)


def _mentions(batch: TextBatch, phrases: list[str]) -> Bool[np.ndarray, " texts"]:
    lowered = [phrase.lower() for phrase in phrases]
    return np.array([any(phrase in text for phrase in lowered) for text in map(str.lower, batch.texts)], bool)
