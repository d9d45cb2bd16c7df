"""How tokenizers do on the same texts: compression, fertility, speed, and whether the texts come back.

In: candidates, and texts by domain. Out: a score for each candidate and domain. Texts are encoded in batches of the
size that packing takes, by the encoder that packing would use. Speed is by CPU time, so that a busy machine changes it
little, and of the first pass over the texts, in which most words are new to the encoder: a lower bound for a corpus.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rayllm.tokenizer.comparison.candidates import Candidate
from rayllm.tokenizer.comparison.measure import Fit
from rayllm.tokenizer.encoders.encoder import Flat

BATCH_BYTES = 1 << 20


@dataclass(frozen=True)
class Score:
    """A tokenizer on the texts of one domain.

    Attributes:
        fit: Bytes, words and tokens.
        documents: Texts.
        seconds: CPU time of encoding them.
        changed: Texts that do not come back as they were.
    """

    fit: Fit
    documents: int
    seconds: float
    changed: int

    @property
    def mb_per_s(self) -> float:
        """Millions of bytes that one core encodes in a second; 0 for no text."""
        return self.fit.bytes / 1e6 / self.seconds if self.seconds else 0.0

    @property
    def round_trip(self) -> bool:
        """Whether every text comes back as it was."""
        return self.changed == 0

    def __add__(self, other: "Score") -> "Score":
        """Both together."""
        return Score(
            self.fit + other.fit,
            self.documents + other.documents,
            self.seconds + other.seconds,
            self.changed + other.changed,
        )


def compare(
    candidates: Iterable[Candidate], texts: Mapping[str, Sequence[str]]
) -> Iterator[tuple[Candidate, dict[str, Score]]]:
    """Score every candidate on every domain, one candidate after the other.

    Args:
        candidates: Tokenizers.
        texts: The texts of each domain.
    """
    for candidate in candidates:
        yield candidate, {domain: score(candidate, found) for domain, found in texts.items()}


def score(candidate: Candidate, texts: Sequence[str]) -> Score:
    """Encode texts, decode them again, and count."""
    encoder, tokens, seconds, changed = candidate.encoder, 0, 0.0, 0
    for batch in batches_of(texts):
        start = time.process_time()
        flat = encoder.encode(batch)
        seconds += time.process_time() - start
        tokens += len(flat.ids)
        changed += _count_changed(candidate, batch, flat)
    fit = Fit(sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts), tokens)
    return Score(fit, len(texts), seconds, changed)


def _count_changed(candidate: Candidate, batch: Sequence[str], flat: Flat) -> int:
    """How many texts of a batch their ids do not give back."""
    ids = [part.tolist() for part in np.split(flat.ids, np.cumsum(flat.lengths)[:-1])]
    back = candidate.tokenizer.decode_batch(ids, skip_special_tokens=False)
    return sum(text != again for text, again in zip(batch, back, strict=True))


def batches_of(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts of about ``BATCH_BYTES`` characters together, as packing takes them; a longer one is alone."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch
