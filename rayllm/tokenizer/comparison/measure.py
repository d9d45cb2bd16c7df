"""How well a tokenizer fits a text: compression and fertility.

Compression is UTF-8 bytes per token (more is better: the same text in fewer positions). Fertility is tokens per
whitespace-separated word (fewer is better; 1 means that whole words are tokens).

Source: Rust et al. 2021, arXiv:2012.15613, section 4 (fertility).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rayllm.tokenizer.encoders.encoder import Encoder


@dataclass(frozen=True)
class Fit:
    """Counts of one text under one tokenizer."""

    bytes: int
    words: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """Compression; 0 for no text."""
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def tokens_per_word(self) -> float:
        """Fertility; 0 for no words."""
        return self.tokens / self.words if self.words else 0.0

    def __add__(self, other: "Fit") -> "Fit":
        """Both texts together."""
        return Fit(self.bytes + other.bytes, self.words + other.words, self.tokens + other.tokens)


def measure(encoder: Encoder, batches: Iterable[Sequence[str]]) -> Fit:
    """Count bytes, words and tokens over batches of texts."""
    size = words = tokens = 0
    for texts in batches:
        size += sum(len(text.encode()) for text in texts)
        words += sum(len(text.split()) for text in texts)
        tokens += int(encoder.encode(texts).lengths.sum())
    return Fit(size, words, tokens)
