"""C4's rules for whole pages; its rules for lines are part of cleaning, see ``clean.CleanSettings.boilerplate``.

Source: Raffel et al. 2020, Exploring the Limits of Transfer Learning, arXiv:1910.10683, section 2.2.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64
from pydantic import Field

from rayllm.core.config import ConfigModel
from rayllm.corpus.quality.batch import TextBatch
from rayllm.corpus.quality.characters import SOLID, TERMINAL, is_any
from rayllm.corpus.quality.gopher import Check


class C4(ConfigModel):
    """C4's rules for pages."""

    lorem_ipsum: bool = Field(default=True, description="c4_lorem_ipsum: whether filler text drops a page.")
    curly_bracket: bool = Field(default=True, description="c4_curly_bracket: whether a `{` drops a page, as code does.")
    min_sentences: int | None = Field(default=5, ge=1, description="c4_few_sentences: fewer sentences than this.")

    def checks(self, batch: TextBatch) -> Iterator[Check]:
        """Which texts break each rule."""
        texts = batch.texts
        if self.lorem_ipsum:
            yield "c4_lorem_ipsum", np.array(["lorem ipsum" in text.lower() for text in texts], bool)
        if self.curly_bracket:
            yield "c4_curly_bracket", np.array(["{" in text for text in texts], bool)
        if self.min_sentences is not None:
            yield "c4_few_sentences", sentences(batch) < self.min_sentences


def sentences(batch: TextBatch) -> Int64[np.ndarray, " texts"]:
    """Count the sentences of each text, as spaCy's rule-based ``Sentencizer`` does within each line.

    A sentence ends with a word that is a mark such as ``.``, ``!`` or ``?``, and the punctuation after it.
    """
    words, flags = batch.words, batch.word_flags
    ends = is_any(flags, TERMINAL) & (words.lengths == 1)
    telling = np.flatnonzero(ends | is_any(flags, SOLID))
    is_end = ends[telling]
    parting = np.flatnonzero(is_end[:-1] & ~is_end[1:])
    before, after = words.starts[telling[parting]], words.starts[telling[parting + 1]]
    same_line = np.searchsorted(batch.newlines, before) == np.searchsorted(batch.newlines, after)
    starts = before[same_line]
    return batch.lines.counts + np.diff(np.searchsorted(starts, np.append(batch.starts, len(batch.chars))))
