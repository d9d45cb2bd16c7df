"""An index of evaluation items by runs of words: which item does a text share a run with, and in which words?

In: items, each with the name of its set. Out: an index, kept as two arrays and a JSON file, and matches. Texts are
compared by hashes; where one is found, the words themselves are, so that no collision of hashes ever makes a match.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt64

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged
from rayllm.corpus.overlap.ngrams import Words, blocks, ngram_hashes, split_words

#: Places in the filter for each run, at least: of look-ups in vain, one in 16 or fewer is followed by a search.
_FILTER_FACTOR = 16
#: Filters have 2**10 to 2**26 places of one byte.
_FILTER_BITS = (10, 26)
#: Longest excerpt in a match, in characters.
EXCERPT_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an evaluation set; ``id`` is its own, or its zero-based place in the set."""

    set: str
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """What a document shares with an evaluation item, for a person to judge.

    Attributes:
        set: The evaluation set.
        item: The item's id.
        matched: How many of the item's different runs of words the document has.
        of: How many the item has.
        text: The longest stretch of the document that consists of such runs, as the document writes it.
        item_text: The item.
    """

    set: str
    item: str
    matched: int
    of: int
    text: str
    item_text: str


@dataclass(frozen=True)
class _Table:
    """The runs of one length: hashes in ascending order, and the item that each belongs to."""

    length: int
    hashes: UInt64[np.ndarray, " runs"]
    items: Int32[np.ndarray, " runs"]

    @cached_property
    def _shift(self) -> np.uint64:
        low, high = _FILTER_BITS
        return np.uint64(64 - min(max((_FILTER_FACTOR * len(self.hashes)).bit_length(), low), high))

    @cached_property
    def _filter(self) -> Bool[np.ndarray, " places"]:
        """Whether any hash begins with these bits: most hashes that are not in the table end here."""
        places = np.zeros(1 << (64 - int(self._shift)), bool)
        places[self.hashes >> self._shift] = True
        return places

    def find(self, hashes: UInt64[np.ndarray, " words"]) -> Int64[np.ndarray, " hits"]:
        """Where hashes stand that are in the table."""
        maybe = np.flatnonzero(self._filter[hashes >> self._shift])
        found = self.hashes.take(np.searchsorted(self.hashes, hashes[maybe]), mode="clip")
        return maybe[found == hashes[maybe]]

    def owners(self, hashes: UInt64[np.ndarray, " hits"]) -> list[list[int]]:
        """The items that have a run with each hash."""
        first, stop = (np.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        return [self.items[a:b].tolist() for a, b in zip(first.tolist(), stop.tolist(), strict=True)]


@dataclass(frozen=True)
class NgramIndex:
    """Evaluation items by their runs of words.

    Attributes:
        ngram: Words in a run.
        items: All items.
        tables: The runs of ``ngram`` words, and of the lengths of items that are shorter than that.
    """

    ngram: int
    items: Sequence[Item]
    tables: Sequence[_Table]

    @property
    def too_short(self) -> dict[str, int]:
        """How many items of each set have too few words to be looked for; sets without any are left out."""
        indexed = {number for table in self.tables for number in table.items.tolist()}
        return dict(Counter(item.set for number, item in enumerate(self.items) if number not in indexed))

    def find(self, texts: Sequence[str]) -> list[Match | None]:
        """The item that each text shares the most runs of words with, if it shares any."""
        return [match for first, stop in blocks(texts) for match in self._find(texts[first:stop])]

    def save(self, uri: str) -> str:
        """Write the index into a directory.

        Returns:
            The digest that ``load_index`` wants.

        Raises:
            OSError: If it cannot be written.
        """
        hashes = np.concatenate([np.empty(0, np.uint64), *(table.hashes for table in self.tables)])
        items = np.concatenate([np.empty(0, np.int32), *(table.items for table in self.tables)])
        digest = hashlib.sha256()
        for name, array in (("hashes", hashes.astype("<u8")), ("items", items.astype("<i4"))):
            data = io.BytesIO()
            np.save(data, array, allow_pickle=False)
            storage.write_bytes(storage.join(uri, f"{name}.npy"), data.getvalue())
            digest.update(data.getvalue())
        lengths = [(table.length, len(table.hashes)) for table in self.tables]
        notes = {"ngram": self.ngram, "lengths": lengths, "items": [asdict(item) for item in self.items]}
        storage.write_text(storage.join(uri, "index.json"), text := json.dumps(notes))
        digest.update(text.encode())
        return digest.hexdigest()

    def _find(self, texts: Sequence[str]) -> Iterator[Match | None]:
        words = split_words(texts)
        hits: dict[int, list[tuple[int, int, int]]] = {}  # text -> place, length of the run, item
        for table in self.tables:
            hashes = ngram_hashes(words.hashes, table.length)
            places = table.find(hashes)
            homes = np.searchsorted(words.bounds, places, "right") - 1
            inside = places + table.length <= words.bounds[homes + 1]
            places, homes, owners = places[inside], homes[inside], table.owners(hashes[places[inside]])
            for place, text, items in zip(places.tolist(), homes.tolist(), owners, strict=True):
                hits.setdefault(text, []).extend((place, table.length, item) for item in items)
        for text in range(len(texts)):
            yield self._best(texts[text], text, words, hits[text]) if text in hits else None

    def _best(self, text: str, number: int, words: Words, hits: list[tuple[int, int, int]]) -> Match | None:
        """The match with the item that has the most hits, the first of equals, unless the words differ after all."""
        counts = Counter(item for _, _, item in hits)
        for index, _ in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
            length = next(length for _, length, item in hits if item == index)
            runs = _runs_of(self.items[index].text, length)
            places = sorted(place for place, _, item in hits if item == index)
            strings = words.strings(places[0], places[-1] + length)
            taken = {place: tuple(strings[place - places[0] : place - places[0] + length]) for place in places}
            shared = {place: run for place, run in taken.items() if run in runs}
            if shared:
                start, stop = words.span(number, *_longest_stretch(list(shared), length))
                item = self.items[index]
                matched, excerpt = len(set(shared.values())), _excerpt(text[start:stop])
                return Match(item.set, item.id, matched, len(runs), excerpt, _excerpt(item.text))
        return None


def build_index(items: Sequence[Item], ngram: int, min_words: int) -> NgramIndex:
    """Index items by their runs of words.

    Args:
        items: The items of all sets.
        ngram: Words in a run. An item with fewer is one run: all its words.
        min_words: Items with fewer words than this are not indexed: they would be found everywhere.
    """
    runs: dict[int, list[np.ndarray]] = {}
    owners: dict[int, list[np.ndarray]] = {}
    for number, item in enumerate(items):
        words = split_words([item.text]).hashes
        length = min(ngram, len(words))
        if length >= min_words:
            hashes = np.unique(ngram_hashes(words, length))
            runs.setdefault(length, []).append(hashes)
            owners.setdefault(length, []).append(np.full(len(hashes), number, np.int32))
    tables = []
    for length in sorted(runs):
        hashes, numbers = np.concatenate(runs[length]), np.concatenate(owners[length])
        order = np.lexsort((numbers, hashes))
        tables.append(_Table(length, hashes[order], numbers[order]))
    return NgramIndex(ngram, list(items), tables)


@lru_cache(maxsize=2)
def load_index(uri: str, digest: str) -> NgramIndex:
    """Read an index, once in a process.

    Args:
        uri: The directory that ``NgramIndex.save`` wrote.
        digest: What it returned.

    Raises:
        ArtifactDamaged: If the files are not those that were written.
        OSError: If they cannot be read.
    """
    data = [storage.read_bytes(storage.join(uri, name)) for name in ("hashes.npy", "items.npy", "index.json")]
    if hashlib.sha256(b"".join(data)).hexdigest() != digest:
        raise ArtifactDamaged(
            "the index of the evaluation sets is not the one that was written",
            where=uri,
            fix="run `rayllm prepare` again; it makes a new one",
        )
    hashes, items = (np.load(io.BytesIO(part), allow_pickle=False) for part in data[:2])
    notes = json.loads(data[2])
    cuts = np.cumsum([count for _, count in notes["lengths"]])[:-1]
    pieces = zip(notes["lengths"], np.split(hashes, cuts), np.split(items, cuts), strict=False)
    tables = [_Table(length, part, owners) for (length, _), part, owners in pieces]
    return NgramIndex(notes["ngram"], [Item(**item) for item in notes["items"]], tables)


@lru_cache(maxsize=1024)
def _runs_of(text: str, length: int) -> frozenset[tuple[bytes, ...]]:
    """The different runs of words of an item."""
    words = split_words([text])
    strings = words.strings(0, len(words.hashes))
    return frozenset(tuple(strings[place : place + length]) for place in range(len(strings) - length + 1))


def _longest_stretch(places: Sequence[int], length: int) -> tuple[int, int]:
    """First word, and one after the last, of the longest stretch that runs at ascending places cover together."""
    best = first, stop = places[0], places[0] + length
    for place in places[1:]:
        first, stop = (first if place <= stop else place), place + length
        best = max(best, (first, stop), key=lambda stretch: stretch[1] - stretch[0])
    return best


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT_CHARS else text[:EXCERPT_CHARS] + "..."
