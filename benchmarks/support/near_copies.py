"""Near-copies of texts with known similarity, and how many of them MinHash finds.

In: real texts. Out: for each a set of copies (words replaced, ends cut off, passages moved, boilerplate added, another
layout), the exact Jaccard similarity of each copy and its original by a word splitter of its own, and tables of what is
found beside what theory says.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rayllm.corpus.overlap.clusters import find_pairs
from rayllm.corpus.overlap.minhash import NearDuplicatesConfig

#: Borders of the similarities in the table.
LEVELS = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
_PASSAGE_WORDS = 40


@dataclass(frozen=True)
class Copy:
    """A near-copy of text number ``original``."""

    original: int
    kind: str
    text: str


@dataclass(frozen=True)
class Line:
    """A line of a table: a group of copies, their mean similarity, the share found, and the share that theory says."""

    name: str
    copies: int
    jaccard: float
    found: float
    theory: float

    def __str__(self) -> str:
        return f"{self.name:24} {self.copies:7,} {self.jaccard:9.3f} {self.found:9.4f} {self.theory:9.4f}"


TITLE = f"{'copies':24} {'number':>7} {'Jaccard':>9} {'found':>9} {'theory':>9}"


def make_copies(texts: Sequence[str], seed: int = 0) -> list[Copy]:
    """Copies of each text, in every way of ``_changes``."""
    rng = random.Random(seed)
    vocabulary = [word for text in texts for word in text.split()]
    return [
        Copy(number, kind, change(text, rng))
        for kind, change in _changes(vocabulary)
        for number, text in enumerate(texts)
    ]


def _changes(vocabulary: list[str]) -> Iterator[tuple[str, Callable[[str, random.Random], str]]]:
    for percent in (0.5, 1, 1.5, 2, 3, 5, 8):
        yield f"{percent:g} % of words edited", lambda text, rng, p=percent: _edit(text, p / 100, vocabulary, rng)
    for percent in (97, 95, 90, 85, 80, 75, 65, 50):
        yield f"cut to {percent} %", lambda text, rng, p=percent: _truncate(text, p / 100)
    yield "passages reordered", _reorder
    yield "boilerplate around", lambda text, rng: _surround(text, vocabulary, rng)
    yield "other layout and case", lambda text, rng: re.sub(r"\s+", "\n\t", text.upper().replace(".", " !"))


def _edit(text: str, rate: float, vocabulary: list[str], rng: random.Random) -> str:
    return " ".join(rng.choice(vocabulary) if rng.random() < rate else word for word in text.split())


def _truncate(text: str, share: float) -> str:
    words = text.split()
    return " ".join(words[: round(share * len(words))])


def _reorder(text: str, rng: random.Random) -> str:
    words = text.split()
    passages = [words[start : start + _PASSAGE_WORDS] for start in range(0, len(words), _PASSAGE_WORDS)]
    rng.shuffle(passages)
    return " ".join(word for passage in passages for word in passage)


def _surround(text: str, vocabulary: list[str], rng: random.Random) -> str:
    words = max(2, len(text.split()) // 25)
    return " ".join([*rng.choices(vocabulary, k=words), text, *rng.choices(vocabulary, k=words)])


def runs_of_words(text: str, ngram: int) -> set[tuple[str, ...]]:
    """The set that a text is compared by, from Latin words found by a regular expression."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[place : place + ngram]) for place in range(max(1, len(words) - ngram + 1))}


def jaccard(first: set[tuple[str, ...]], second: set[tuple[str, ...]]) -> float:
    """Size of what both have over the size of what either has."""
    return len(first & second) / len(first | second)


def latin(texts: Sequence[str], min_words: int = 80, max_words: int = 1000) -> list[str]:
    """The texts of such lengths, in ASCII, so that both word splitters mean the same by a word."""
    ascii_texts = (text.encode("ascii", "ignore").decode() for text in texts)
    return [text for text in ascii_texts if min_words <= len(text.split()) <= max_words]


@dataclass(frozen=True)
class Trial:
    """What was found among texts and their copies.

    Attributes:
        kinds: The lines of the table by kind of copy.
        levels: The lines by similarity.
        pairs: Pairs that were found, of any two documents; 0 if they were not asked for.
        precision: The share of them with a similarity of at least 0.5, 0.6, 0.7 and 0.8.
        exact: The similarity of each copy and its original.
        found: Whether each copy was found.
    """

    kinds: list[Line]
    levels: list[Line]
    pairs: int
    precision: dict[float, float]
    exact: np.ndarray
    found: np.ndarray

    def recall(self, similarity: float) -> float:
        """The share of the copies with such a similarity or a greater one that were found."""
        return float(self.found[self.exact >= similarity].mean())


def plant(texts: Sequence[str], seed: int = 0) -> tuple[list[Copy], list[str]]:
    """The near-copies of texts, and all documents: the texts, then their copies."""
    copies = make_copies(texts, seed)
    return copies, [*texts, *(copy.text for copy in copies)]


def judge(
    copies: Sequence[Copy],
    documents: Sequence[str],
    bands: np.ndarray,
    config: NearDuplicatesConfig,
    *,
    pairs: bool = True,
) -> Trial:
    """Compare what band hashes find with exact similarity.

    A copy is found if it shares a band with its original. Precision is taken over all pairs of documents that share
    one, among the originals and the copies.

    Args:
        copies: What was planted.
        documents: The originals, then the copies.
        bands: uint64 (documents, bands).
        config: The parameters that the bands are made with.
        pairs: Whether to look at all pairs too, which takes most of the time.
    """
    first = len(documents) - len(copies)
    sets = [runs_of_words(text, config.ngram) for text in documents]
    place = np.array([copy.original for copy in copies])
    found = (bands[first:] == bands[place]).any(axis=1)
    exact = np.array([jaccard(sets[copy.original], sets[first + i]) for i, copy in enumerate(copies)])
    kinds = np.array([copy.kind for copy in copies])
    chosen = [(kind, kinds == kind) for kind in dict.fromkeys(kinds.tolist())]
    levels = [
        (f"similarity {low:.2f} to {min(high, 1):.2f}", (exact >= low) & (exact < high))
        for low, high in zip(LEVELS, (*LEVELS[1:], 1.01), strict=True)
    ]
    similar = np.array([jaccard(sets[a], sets[b]) for a, b in all_pairs(bands)] if pairs else [])
    return Trial(
        [_line(kind, mask, exact, found, config) for kind, mask in chosen],
        [_line(name, mask, exact, found, config) for name, mask in levels if mask.any()],
        len(similar),
        {level: float((similar >= level).mean()) for level in (0.5, 0.6, 0.7, 0.8)} if len(similar) else {},
        exact,
        found,
    )


def all_pairs(bands: np.ndarray) -> set[tuple[int, int]]:
    """Every two documents that share a band: neighbours in a bucket, then neighbours of neighbours, and so on."""
    numbers, pairs = np.arange(len(bands)), set[tuple[int, int]]()
    for band in range(bands.shape[1]):
        buckets: dict[int, list[int]] = {}
        for a, b in find_pairs(band, bands[:, band], numbers).tolist():
            buckets.setdefault(int(bands[a, band]), [a]).append(b)
        for members in buckets.values():
            pairs.update((a, b) for i, a in enumerate(members) for b in members[i + 1 :])
    return pairs


def _line(name: str, mask: np.ndarray, exact: np.ndarray, found: np.ndarray, config: NearDuplicatesConfig) -> Line:
    theory = np.mean([config.candidate_probability(value) for value in exact[mask]])
    return Line(name, int(mask.sum()), float(exact[mask].mean()), float(found[mask].mean()), float(theory))
