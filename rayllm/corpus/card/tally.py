"""Sums that tasks return and the driver adds up: what was kept, what was left out and why, with a few examples."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

#: Characters of a document that stand for it on the data card.
EXAMPLE_CHARS = 400
#: Examples of each reason that are kept for a domain.
MAX_EXAMPLES = 3
#: Equal parts of [0, 1] in which scores are counted.
SCORE_BINS = 20


class Amount(BaseModel):
    """A number of documents, and the UTF-8 bytes of their texts."""

    documents: int = 0
    bytes: int = 0

    def plus(self, other: "Amount") -> "Amount":
        """The sum."""
        return Amount(documents=self.documents + other.documents, bytes=self.bytes + other.bytes)


#: Amounts by name: by reason, by language, by split.
Amounts = dict[str, Amount]


def count_amounts(names: list[str], sizes: np.ndarray[Any, Any]) -> Amounts:
    """Amounts of documents by a name that each has; ``sizes`` are their bytes. In the order of first occurrence."""
    found: Amounts = {}
    for name, size in zip(names, sizes.tolist(), strict=True):
        amount = found.setdefault(name, Amount())
        amount.documents += 1
        amount.bytes += size
    return found


def add_amounts(first: Mapping[str, Amount], second: Mapping[str, Amount]) -> Amounts:
    """The sums by name; the largest first, equal ones by name."""
    names = {*first, *second}
    sums = {name: first.get(name, Amount()).plus(second.get(name, Amount())) for name in names}
    return dict(sorted(sums.items(), key=lambda item: (-item[1].documents, item[0])))


#: The beginnings of a few documents by reason.
Examples = dict[str, list[str]]


def add_example(examples: Examples, reason: str, text: str, limit: int = 1) -> None:
    """Keep the beginning of a text unless there are enough."""
    held = examples.setdefault(reason, [])
    if len(held) < limit:
        held.append(text[:EXAMPLE_CHARS])


def add_examples(first: Examples, second: Examples) -> Examples:
    """The first few of both, for each reason."""
    return {
        reason: [*first.get(reason, []), *second.get(reason, [])][:MAX_EXAMPLES]
        for reason in dict.fromkeys([*first, *second])
    }


class Scores(BaseModel):
    """Documents by quality score, in ``SCORE_BINS`` equal parts of [0, 1]; empty where none was scored.

    Attributes:
        kept: Those that the score has not dropped.
        dropped: Those that it has.
    """

    kept: list[int] = []
    dropped: list[int] = []

    def plus(self, other: "Scores") -> "Scores":
        """The sum."""
        return Scores(kept=_sums(self.kept, other.kept), dropped=_sums(self.dropped, other.dropped))


def count_scores(scores: np.ndarray[Any, Any], min_score: float) -> Scores:
    """Count scores, those from ``min_score`` up as kept."""
    bins = np.clip((scores * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)
    kept = scores >= min_score
    return Scores(
        kept=np.bincount(bins[kept], minlength=SCORE_BINS).tolist(),
        dropped=np.bincount(bins[~kept], minlength=SCORE_BINS).tolist(),
    )


def _sums(first: list[int], second: list[int]) -> list[int]:
    return [a + b for a, b in zip(first, second, strict=True)] if first and second else first or second
