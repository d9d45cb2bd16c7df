"""Learning more merges over text that is tokens already: byte pair encoding from any starting point.

In: tokens of pieces, and a rule that may refuse a pair. Out: the pairs in the order in which they are merged. The
trainer of ``tokenizers`` can neither start from a vocabulary nor refuse a pair; SuperBPE needs both.

All places of a pair are known the moment that the younger of its tokens is made: later merges only take some away. So
a count in the queue is an upper bound, made exact when it comes to the top, and nothing has to be subtracted while
merging. All work on places is on arrays; memory is about 30 bytes a token.

Source: Sennrich et al. 2016, arXiv:1508.07909, algorithm 1. Of pairs with equal counts the one of the older tokens
wins, as in Hugging Face ``tokenizers``, ``BpeTrainer``.
"""

import heapq
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int32, Int64

BORDER, GONE = -1, -2

Pair = tuple[int, int]
Positions = Int32[np.ndarray, " places"]


def learn_merges(
    tokens: Int32[np.ndarray, " tokens"],
    *,
    next_id: int,
    num_merges: int,
    min_frequency: int,
    allow: Callable[[int, int], bool],
) -> list[Pair]:
    """Merge the most frequent pair, again and again; the n-th merged pair becomes the token ``next_id + n``.

    Args:
        tokens: Pieces of text one after the other, a ``BORDER`` between them and at both ends.
        next_id: First id that is free.
        num_merges: Merges to learn at most; fewer when no allowed pair is frequent enough.
        min_frequency: A pair at fewer places is not merged.
        allow: Asked once for each pair that would be merged next; a refused pair is never merged. It sees new ids as
            left and right in later calls.

    Returns:
        Pairs of ids.
    """
    text = _LinkedText(tokens, base=next_id + num_merges)
    queue = _Queue(*text.pairs(), min_frequency)
    merges: list[Pair] = []
    while len(merges) < num_merges and (top := queue.pop(text.at)) is not None:
        key, places = top
        pair = divmod(key, text.base)
        if allow(*pair):
            queue.add(*text.merge(key, places, next_id + len(merges)))
            merges.append(pair)
    return merges


class _LinkedText:
    """Tokens that know their neighbours, so that a merge needs no shifting. A pair's key is ``left * base + right``."""

    def __init__(self, tokens: Int32[np.ndarray, " tokens"], base: int) -> None:
        if len(tokens) >= 1 << 31:
            raise ValueError(f"{len(tokens):,} tokens are too many to learn merges from; lower fit_tokenizer.max_bytes")
        self.base = base
        self._token = np.array(tokens, np.int32)
        self._next = np.arange(1, len(tokens) + 1, dtype=np.int32)
        self._before = np.arange(-1, len(tokens) - 1, dtype=np.int32)

    def pairs(self) -> tuple[Int64[np.ndarray, " places"], Positions]:
        """Keys and places of all neighbours."""
        inside = (self._token[:-1] >= 0) & (self._token[1:] >= 0)
        places = np.flatnonzero(inside).astype(np.int32)
        return self._token[places].astype(np.int64) * self.base + self._token[places + 1], places

    def at(self, key: int, places: Positions) -> Positions:
        """Those of the places where the pair still stands."""
        left, right = divmod(key, self.base)
        places = places[self._token[places] == left]
        return places[self._token[self._next[places]] == right]

    def merge(self, key: int, places: Positions, new: int) -> tuple[Int64[np.ndarray, " new"], Positions]:
        """Put a new token in a pair's places; returns keys and places of the pairs that it makes."""
        left, right = divmod(key, self.base)
        if left == right:
            places = self._without_overlaps(places)
        gone = self._next[places]
        after = self._next[gone]
        self._token[places], self._token[gone] = new, GONE
        self._next[places], self._before[after] = after, places
        before = self._before[places]
        left_of, right_of = self._token[before], self._token[after]
        # Two new tokens side by side are one pair, which the left one counts.
        has_left, has_right = (left_of >= 0) & (left_of != new), right_of >= 0
        keys = np.concatenate(
            [new * self.base + right_of[has_right].astype(np.int64), left_of[has_left] * np.int64(self.base) + new]
        )
        return keys, np.concatenate([places[has_right], before[has_left]])

    def _without_overlaps(self, places: Positions) -> Positions:
        """Of ``aaa``, whose two pairs share a token, the pair on the left; of longer runs every second one."""
        starts = np.ones(len(places), bool)
        starts[1:] = self._next[places[:-1]] != places[1:]
        index = np.arange(len(places))
        return places[(index - np.maximum.accumulate(np.where(starts, index, 0))) % 2 == 0]


class _Queue:
    """Pairs by count, the most frequent first; then by key. Counts may be too high until a pair is popped."""

    def __init__(self, keys: Int64[np.ndarray, " places"], places: Positions, min_frequency: int) -> None:
        self._least = max(1, min_frequency)
        self._places: dict[int, Positions] = {}
        self._heap: list[tuple[int, int]] = []
        self.add(keys, places)

    def add(self, keys: Int64[np.ndarray, " places"], places: Positions) -> None:
        """Take pairs that did not exist before, with all of their places."""
        for key, group in _groups(keys, places, self._least):
            self._places[key] = group
            heapq.heappush(self._heap, (-len(group), key))

    def pop(self, at: Callable[[int, Positions], Positions]) -> tuple[int, Positions] | None:
        """Key and places of the most frequent pair, which is forgotten; None if no pair is frequent enough.

        Args:
            at: Which of a pair's places are still its own.
        """
        while self._heap:
            count, key = heapq.heappop(self._heap)
            places = at(key, self._places.pop(key))
            if len(places) == -count:
                return key, places
            if len(places) >= self._least:
                self._places[key] = places
                heapq.heappush(self._heap, (-len(places), key))
        return None


def _groups(keys: Int64[np.ndarray, " places"], places: Positions, least: int) -> Iterator[tuple[int, Positions]]:
    """Keys at ``least`` places or more, with these in the given order."""
    order = np.argsort(keys, kind="stable")
    keys, places = keys[order], places[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    lengths = np.diff(np.append(starts, len(keys)))
    frequent = lengths >= least
    for start, length in zip(starts[frequent].tolist(), lengths[frequent].tolist(), strict=True):
        # A copy: a view would keep the places of all the rare pairs in memory.
        yield int(keys[start]), places[start : start + length].copy()
