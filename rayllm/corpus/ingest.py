"""First pass: one unit of a source to scratch files, with counts for the driver.

In: a unit. Out, below the scratch directory: its cleaned documents that keep to the rules, in parts of bounded size;
for each part the keys that deduplication needs; its bad rows; and the documents that rules dropped, if they are wanted.
What is returned is counts, small whatever the unit's size.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from rayllm.core import storage
from rayllm.corpus.clean import clean_text
from rayllm.corpus.dedup import content_hash, partition_of
from rayllm.corpus.documents import BadRow, Document, LineCount, Split, Unit
from rayllm.corpus.files.tables import CORPUS_SCHEMA, write_checked, write_groups, write_table
from rayllm.corpus.histogram import Histogram, histogram, merge
from rayllm.corpus.quality import Rules, RulesByContent, broken_rule
from rayllm.corpus.readers import Row, read_unit
from rayllm.corpus.sources import Source
from rayllm.corpus.split import document_keys

#: Bad rows of a unit that are listed one by one; the rest is counted.
MAX_LISTED_BAD_ROWS = 10_000
DOCUMENT_SCHEMA = CORPUS_SCHEMA.append(pa.field("hash", pa.uint64()))
DROPPED_SCHEMA = CORPUS_SCHEMA.append(pa.field("reason", pa.string()))


@dataclass(frozen=True)
class Recipe:
    """What every task of a preparation knows.

    Attributes:
        sources: The sources of each split and domain.
        rules: Quality rules by content.
        seed: The run's seed.
        output: URI of the directory to fill.
        part_bytes: Text in one scratch file, in bytes.
        max_row_bytes: Longest line or file, in bytes.
        keep_dropped: Whether dropped documents are written out.
        partitions: Parts that hashes are divided into.
    """

    sources: Mapping[Split, Mapping[str, list[Source]]]
    rules: RulesByContent
    seed: int
    output: str
    part_bytes: int
    max_row_bytes: int
    keep_dropped: bool
    partitions: int = 1

    def scratch(self, *parts: str) -> str:
        """URI of a scratch file."""
        return storage.join(self.output, ".scratch", *parts)

    def dropped(self, domain: str, name: str) -> str:
        """URI of a file of dropped documents."""
        return storage.join(self.output, "dropped", domain, name)


class UnitCounts(BaseModel):
    """What the first pass says of a unit.

    Attributes:
        read: Documents that could be read.
        dropped: Documents dropped, by rule.
        bad: Bad rows, by kind.
        places: The first bad rows: file, row, kind and detail.
        lines: Lines of a range of a file.
        parts: Documents in each part.
        histogram: Bytes of the documents by key.
        smallest: The smallest key; 1.0 if there is no document.
    """

    read: int = 0
    dropped: dict[str, int] = {}
    bad: dict[str, int] = {}
    places: list[tuple[str, int | None, str]] = []
    lines: int = 0
    parts: list[int] = []
    histogram: Histogram = {}
    smallest: float = 1.0


def part_name(unit: int, part: int) -> str:
    """File name of a part of a unit."""
    return f"{unit:06d}-{part:04d}.parquet"


def ingest_unit(index: int, unit: Unit, recipe: Recipe) -> UnitCounts:
    """Read, clean and filter a unit; write its scratch files.

    Args:
        index: Position of the unit in the list of all, which names its files.
        unit: What to read.
        recipe: What every task knows.

    Raises:
        DataError: If a file cannot be read.
        SetupError: If the scratch files cannot be written.
    """
    source = recipe.sources[unit.split][unit.domain][unit.source]
    ingest = _Ingest(index, unit, recipe, recipe.rules.of(source.content) if unit.split == "train" else None)
    for row in read_unit(unit, source, max_row_bytes=recipe.max_row_bytes, seed=recipe.seed):
        ingest.take(row)
    return ingest.finish()


class _Ingest:
    """Sorts the rows of one unit into parts, dropped documents and bad rows, and writes what is full."""

    def __init__(self, index: int, unit: Unit, recipe: Recipe, rules: Rules | None) -> None:
        self.index, self.unit, self.recipe, self.rules = index, unit, recipe, rules
        self.counts = UnitCounts()
        self.dropped: Counter[str] = Counter()
        self.bad: Counter[str] = Counter()
        self.bad_rows: list[BadRow] = []
        self.kept = _Buffer(recipe.part_bytes, self._write_part)
        self.losses = _Buffer(recipe.part_bytes, self._write_dropped)

    def take(self, row: Row) -> None:
        """Take what the reader gives."""
        if isinstance(row, LineCount):
            self.counts.lines = row.lines
        elif isinstance(row, BadRow):
            self.bad[row.kind] += 1
            self.bad_rows += [row] if len(self.bad_rows) < MAX_LISTED_BAD_ROWS else []
        else:
            self._take_document(row)

    def _take_document(self, document: Document) -> None:
        self.counts.read += 1
        text = clean_text(document.text)
        size = len(text.encode())
        if reason := broken_rule(text, self.rules):
            self.dropped[reason] += 1
            if self.recipe.keep_dropped:
                self.losses.add({**_columns(document, text, content_hash(text)), "reason": reason}, size)
            return
        digest = content_hash(text)
        self.kept.add({**_columns(document, text, digest), "hash": digest}, size)

    def finish(self) -> UnitCounts:
        """Write what is left, and say what there was."""
        self.kept.flush()
        self.losses.flush()
        if self.bad_rows:
            lines = b"".join(_quarantine_lines(self.unit, self.bad_rows, self.bad.total()))
            write_checked(self.recipe.scratch("bad", f"{self.index:06d}.jsonl"), lines)
        self.counts.dropped, self.counts.bad = dict(self.dropped), dict(self.bad)
        self.counts.places = [(row.source, row.row, f"{row.kind}: {row.detail}") for row in self.bad_rows[:3]]
        return self.counts

    def _write_part(self, number: int, rows: list[dict[str, Any]], sizes: list[int]) -> None:
        name, counts = part_name(self.index, number), self.counts
        table = pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)
        write_table(self.recipe.scratch("documents", name), table)
        hashes, bytes_ = table.column("hash").to_numpy(), np.array(sizes, np.int64)
        groups = split_by_partition(hashes, bytes_, self.recipe.partitions)
        write_groups(self.recipe.scratch("keys", name), groups)
        keys = document_keys(hashes, self.recipe.seed)
        counts.parts.append(len(rows))
        counts.histogram = merge(counts.histogram, histogram(keys, bytes_))
        counts.smallest = min(counts.smallest, float(keys.min()))

    def _write_dropped(self, number: int, rows: list[dict[str, Any]], sizes: list[int]) -> None:
        table = pa.Table.from_pylist(rows, schema=DROPPED_SCHEMA)
        write_table(self.recipe.dropped(self.unit.domain, f"rules-{part_name(self.index, number)}"), table)


class _Buffer:
    """Rows that wait until there are enough for a file."""

    def __init__(self, limit: int, write: Callable[[int, list[dict[str, Any]], list[int]], None]) -> None:
        self.limit, self.write = limit, write
        self.rows: list[dict[str, Any]] = []
        self.sizes: list[int] = []
        self.held = self.written = 0

    def add(self, row: dict[str, Any], size: int) -> None:
        """Hold a row; write all if that makes it too many bytes."""
        if self.rows and self.held + size > self.limit:
            self.flush()
        self.rows.append(row)
        self.sizes.append(size)
        self.held += size

    def flush(self) -> None:
        """Write what is held."""
        if self.rows:
            self.write(self.written, self.rows, self.sizes)
            self.rows, self.sizes, self.held = [], [], 0
            self.written += 1


def split_by_partition(hashes: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any], count: int) -> list[pa.Table]:
    """One table of hash, row and bytes for each partition of the hashes, so that each can be read alone."""
    partitions = partition_of(hashes, count)
    table = pa.table({"hash": hashes, "row": np.arange(len(hashes), dtype=np.int64), "bytes": sizes})
    return [table.filter(pa.array(partitions == partition)) for partition in range(count)]


def _columns(document: Document, text: str, digest: int) -> dict[str, Any]:
    name = document.id or f"{digest:016x}"  # named by its content: the same wherever it lies
    metadata = json.dumps(document.metadata, sort_keys=True, default=str)
    return {"id": name, "text": text, "source": document.source, "metadata": metadata}


def _quarantine_lines(unit: Unit, rows: list[BadRow], total: int) -> Iterator[bytes]:
    for row in rows:
        yield _json_line(domain=unit.domain, source=row.source, row=row.row, reason=f"{row.kind}: {row.detail}")
    if total > len(rows):
        yield _json_line(
            domain=unit.domain, source=rows[-1].source, row=None, reason=f"and {total - len(rows):,} more bad rows"
        )


def _json_line(**record: object) -> bytes:
    return json.dumps(record).encode() + b"\n"
