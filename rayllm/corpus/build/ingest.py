"""First pass: one unit of a source to scratch files, with counts for the driver.

In: a unit. Out, below the scratch directory: its cleaned documents that no filter refuses, in parts of bounded size;
for each part the keys that exact and near deduplication need; its bad rows; the evaluation items found in it; and the
documents that were dropped, if they are wanted. What is returned is counts, small whatever the unit's size. Documents
go through in batches: lists of texts and Arrow columns, never a dict for each row.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from rayllm.corpus.build.filters import Filters, Verdicts
from rayllm.corpus.build.notes import Outputs
from rayllm.corpus.build.recipe import Recipe
from rayllm.corpus.card.histogram import Histogram, histogram, merge
from rayllm.corpus.card.tally import Amount, Amounts, Examples, Scores, add_amounts, add_example, count_amounts
from rayllm.corpus.clean import clean_text
from rayllm.corpus.conversations.turns import is_conversation, with_clean_turns
from rayllm.corpus.documents import BadRow, Document, LineCount, Unit, Unwanted
from rayllm.corpus.files.tables import CORPUS_SCHEMA
from rayllm.corpus.overlap.exact import content_hashes, partition_of
from rayllm.corpus.overlap.minhash import band_hashes
from rayllm.corpus.quality import broken_rules
from rayllm.corpus.readers import Row, read_unit
from rayllm.corpus.split import document_keys

#: Bad rows of a unit that are listed one by one; the rest is counted.
MAX_LISTED_BAD_ROWS = 10_000
#: Text that goes through the filters at once, in characters: enough to keep numpy busy, little enough for the caches.
BATCH_CHARS = 1 << 20
DOCUMENT_SCHEMA = CORPUS_SCHEMA.append(pa.field("hash", pa.uint64()))
DROPPED_SCHEMA = CORPUS_SCHEMA.append(pa.field("reason", pa.string()))


class UnitCounts(BaseModel):
    """What the first pass says of a unit.

    Attributes:
        read: Documents that could be read, their texts cleaned.
        dropped: What was dropped, by reason.
        examples: The beginnings of dropped documents, by reason.
        languages: Documents that were looked at, by language.
        scores: Documents that were scored, by quality score.
        contaminated: Documents by the evaluation set that an item of theirs is from.
        bad: Bad rows, by kind.
        places: The first bad rows: file, row, kind and detail.
        lines: Lines of a range of a file.
        parts: Documents in each part.
        histogram: Bytes of the documents by key.
        smallest: The smallest key; 1.0 if there is no document.
    """

    read: Amount = Amount()
    dropped: Amounts = {}
    examples: Examples = {}
    languages: Amounts = {}
    scores: Scores = Scores()
    contaminated: dict[str, int] = {}
    bad: dict[str, int] = {}
    places: list[tuple[str, int | None, str]] = []
    lines: int = 0
    parts: list[int] = []
    histogram: Histogram = {}
    smallest: float = 1.0


def part_name(unit: int, part: int) -> str:
    """File name of a part of a unit."""
    return f"{unit:06d}-{part:04d}.parquet"


def ingest_unit(index: int, unit: Unit, recipe: Recipe, outputs: Outputs) -> UnitCounts:
    """Read, clean and filter a unit; write its scratch files.

    Args:
        index: Position of the unit in the list of all, which names its files.
        unit: What to read.
        recipe: What every task knows.
        outputs: Writes the files.

    Raises:
        DataError: If a file cannot be read.
        SetupError: If the scratch files cannot be written.
    """
    source = recipe.sources[unit.split][unit.domain][unit.source]
    ingest = _Ingest(index, unit, recipe, outputs)
    for row in read_unit(unit, source, max_row_bytes=recipe.settings.max_row_bytes, seed=recipe.seed):
        ingest.take(row)
    return ingest.finish()


class _Ingest:
    """Sorts the rows of one unit into parts, dropped documents and bad rows, and writes what is full."""

    def __init__(self, index: int, unit: Unit, recipe: Recipe, outputs: Outputs) -> None:
        self.index, self.unit, self.recipe, self.outputs = index, unit, recipe, outputs
        settings = recipe.settings
        self.content = recipe.sources[unit.split][unit.domain][unit.source].content
        self.cleaning = settings.clean.of(self.content)
        self.filters = Filters(recipe, self.content) if unit.split == "train" else None
        self.near = settings.near_duplicates
        if self.near is not None and not self.near.applies_to(self.content):
            self.near = None
        self.batch: list[Document] = []
        self.batch_chars = 0
        self.batch_limit = min(BATCH_CHARS, settings.shard_bytes)
        self.counts = UnitCounts()
        self.bad: Counter[str] = Counter()
        self.bad_rows: list[BadRow] = []
        self.matches: list[bytes] = []
        self.kept = _Buffer(settings.shard_bytes, self._write_part)
        self.losses = _Buffer(settings.shard_bytes, self._write_dropped)

    def take(self, row: Row) -> None:
        """Take what the reader gives."""
        if isinstance(row, Document):
            if self.batch and self.batch_chars + len(row.text) > self.batch_limit:
                self._process()
            self.batch.append(row)
            self.batch_chars += len(row.text)
        elif isinstance(row, BadRow):
            self.bad[row.kind] += 1
            self.bad_rows += [row] if len(self.bad_rows) < MAX_LISTED_BAD_ROWS else []
        elif isinstance(row, Unwanted):
            self._leave_out(row)
        else:
            assert isinstance(row, LineCount)
            self.counts.lines = row.lines

    def finish(self) -> UnitCounts:
        """Write what is left, and say what there was."""
        self._process()
        self.kept.flush()
        self.losses.flush()
        name = f"{self.index:06d}.jsonl"
        if self.bad_rows:
            lines = b"".join(_quarantine_lines(self.unit, self.bad_rows, self.bad.total()))
            self.outputs.data(self.recipe.scratch("bad", name), lines)
        if self.matches:
            self.outputs.data(self.recipe.scratch("matches", name), b"".join(self.matches))
        self.counts.bad = dict(self.bad)
        self.counts.places = [(row.source, row.row, f"{row.kind}: {row.detail}") for row in self.bad_rows[:3]]
        return self.counts

    def _process(self) -> None:
        """Clean the batch, filter it, and put its documents where they belong."""
        if not self.batch:
            return
        documents, self.batch, self.batch_chars = self.batch, [], 0
        documents, texts = self._cleaned(documents)
        column = pa.array(texts, pa.string())
        sizes = pc.call_function("binary_length", [column]).to_numpy().astype(np.int64)
        self.counts.read = self.counts.read.plus(Amount(documents=len(texts), bytes=int(sizes.sum())))
        verdicts = Verdicts(broken_rules(texts, None)) if self.filters is None else self.filters.judge(texts, sizes)
        kept = verdicts.kept()
        self._count(verdicts, documents)
        self._keep([documents[i] for i in kept], [texts[i] for i in kept], column.take(kept), sizes[kept])
        if len(kept) < len(texts):
            lost = [i for i, reason in enumerate(verdicts.reasons) if reason is not None]
            reasons = [str(verdicts.reasons[i]) for i in lost]
            self._count_dropped(reasons, [texts[i] for i in lost], sizes[lost])
            if self.recipe.settings.keep_dropped:
                self._lose([documents[i] for i in lost], [texts[i] for i in lost], reasons, sizes[lost])

    def _cleaned(self, documents: list[Document]) -> tuple[list[Document], list[str]]:
        """The documents with clean texts, and these; of a conversation, each turn is cleaned by itself."""
        if not any(map(is_conversation, documents)):
            return documents, [clean_text(document.text, self.cleaning) for document in documents]
        clean = partial(clean_text, settings=self.cleaning)
        cleaned = [
            with_clean_turns(document, clean) if is_conversation(document) else document for document in documents
        ]
        return cleaned, [document.text if is_conversation(document) else clean(document.text) for document in cleaned]

    def _keep(
        self, documents: Sequence[Document], texts: list[str], column: pa.Array, sizes: np.ndarray[Any, Any]
    ) -> None:
        if not documents:
            return
        hashes = content_hashes(texts)
        columns = {**_columns(documents, column, hashes), "hash": pa.array(hashes)}
        bands = {} if self.near is None else _band_columns(band_hashes(texts, self.near))
        self.kept.add(pa.record_batch({**columns, "bytes": pa.array(sizes), **bands}), int(sizes.sum()))

    def _lose(
        self, documents: Sequence[Document], texts: list[str], reasons: list[str], sizes: np.ndarray[Any, Any]
    ) -> None:
        columns = _columns(documents, pa.array(texts, pa.string()), content_hashes(texts))
        self.losses.add(pa.record_batch({**columns, "reason": pa.array(reasons)}), int(sizes.sum()))

    def _leave_out(self, row: Unwanted) -> None:
        """Count, and write out if that is wanted, what the source's own settings leave out."""
        text = clean_text(row.document.text, self.cleaning)
        sizes = np.array([len(text.encode())], np.int64)
        self.counts.read = self.counts.read.plus(Amount(documents=1, bytes=int(sizes[0])))
        self._count_dropped([row.reason], [text], sizes)
        if self.recipe.settings.keep_dropped:
            self._lose([row.document], [text], [row.reason], sizes)

    def _count(self, verdicts: Verdicts, documents: Sequence[Document]) -> None:
        counts = self.counts
        counts.languages = add_amounts(counts.languages, verdicts.languages)
        counts.scores = counts.scores.plus(verdicts.scores)
        for index, match in verdicts.matches.items():
            counts.contaminated[match.set] = counts.contaminated.get(match.set, 0) + 1
            document = documents[index]
            place = {"domain": self.unit.domain, "source": document.source, "id": document.id}
            self.matches.append(_json_line(**place, **asdict(match)))

    def _count_dropped(self, reasons: list[str], texts: Sequence[str], sizes: np.ndarray[Any, Any]) -> None:
        self.counts.dropped = add_amounts(self.counts.dropped, count_amounts(reasons, sizes))
        for reason, text in zip(reasons, texts, strict=True):
            if text:
                add_example(self.counts.examples, reason, text)

    def _write_part(self, number: int, table: pa.Table) -> None:
        name, counts = part_name(self.index, number), self.counts
        # Read once, by one task, soon: lz4 costs a third of the time of zstd.
        self.outputs.table(self.recipe.scratch("documents", name), table.select(DOCUMENT_SCHEMA.names), "lz4")
        hashes, sizes = table.column("hash").to_numpy(), table.column("bytes").to_numpy()
        groups = split_by_partition(hashes, sizes, self.recipe.partitions)
        self.outputs.groups(self.recipe.scratch("keys", name), groups)
        if self.near is not None:
            bands = [column for column in table.column_names if column.startswith(BAND)]
            self.outputs.table(self.recipe.scratch("bands", name), table.select(bands), "none")
        keys = document_keys(hashes, self.recipe.seed)
        counts.parts.append(table.num_rows)
        counts.histogram = merge(counts.histogram, histogram(keys, sizes))
        counts.smallest = min(counts.smallest, float(keys.min()))

    def _write_dropped(self, number: int, table: pa.Table) -> None:
        name = f"rules-{part_name(self.index, number)}"
        self.outputs.table(self.recipe.dropped(self.unit.domain, name), table.cast(DROPPED_SCHEMA))


class _Buffer:
    """Batches of rows that wait until there are enough for a file."""

    def __init__(self, limit: int, write: Callable[[int, pa.Table], None]) -> None:
        self.limit, self.write = limit, write
        self.batches: list[pa.RecordBatch] = []
        self.held = self.written = 0

    def add(self, batch: pa.RecordBatch, size: int) -> None:
        """Hold a batch; write what is held first if it would be too many bytes with it."""
        if self.batches and self.held + size > self.limit:
            self.flush()
        self.batches.append(batch)
        self.held += size

    def flush(self) -> None:
        """Write what is held."""
        if self.batches:
            self.write(self.written, pa.Table.from_batches(self.batches))
            self.batches, self.held = [], 0
            self.written += 1


#: Beginning of the names of the columns that hold band hashes.
BAND = "band"


def band_name(band: int) -> str:
    """Name of the column of a band's hashes."""
    return f"{BAND}{band:03d}"


def _band_columns(hashes: np.ndarray[Any, Any]) -> dict[str, pa.Array]:
    return {band_name(band): pa.array(np.ascontiguousarray(hashes[:, band])) for band in range(hashes.shape[1])}


def split_by_partition(hashes: np.ndarray[Any, Any], sizes: np.ndarray[Any, Any], count: int) -> list[pa.Table]:
    """One table of hash, row and bytes for each partition of the hashes, so that each can be read alone."""
    partitions = partition_of(hashes, count)
    table = pa.table({"hash": hashes, "row": np.arange(len(hashes), dtype=np.int64), "bytes": sizes})
    return [table.filter(pa.array(partitions == partition)) for partition in range(count)]


def _columns(documents: Sequence[Document], texts: pa.Array, hashes: np.ndarray[Any, Any]) -> dict[str, pa.Array]:
    """The columns of the corpus; a document without a name is named by its content: the same wherever it lies."""
    names = [document.id or f"{digest:016x}" for document, digest in zip(documents, hashes.tolist(), strict=True)]
    metadata = [_metadata(document) for document in documents]
    sources = [document.source for document in documents]
    return {"id": pa.array(names), "text": texts, "source": pa.array(sources), "metadata": pa.array(metadata)}


def _metadata(document: Document) -> str:
    return json.dumps(document.metadata, sort_keys=True, default=str) if document.metadata else "{}"


def _quarantine_lines(unit: Unit, rows: list[BadRow], total: int) -> Iterator[bytes]:
    for row in rows:
        yield _json_line(domain=unit.domain, source=row.source, row=row.row, reason=f"{row.kind}: {row.detail}")
    if total > len(rows):
        yield _json_line(
            domain=unit.domain, source=rows[-1].source, row=None, reason=f"and {total - len(rows):,} more bad rows"
        )


def _json_line(**record: object) -> bytes:
    return json.dumps(record).encode() + b"\n"
