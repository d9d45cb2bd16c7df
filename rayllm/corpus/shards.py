"""Second and third pass: which copy of each document stays, and the shards of the corpus.

In: the parts that the first pass wrote, and the bounds of each domain. The second pass looks at one partition of the
content hashes, over all parts; the third writes one shard of one split of one domain, from consecutive parts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from rayllm.core import storage
from rayllm.corpus.dedup import KEPT, REASONS, find_duplicates
from rayllm.corpus.documents import Split
from rayllm.corpus.files.tables import CORPUS_SCHEMA, read_group, read_table, write_table
from rayllm.corpus.histogram import Histogram, histogram, merge
from rayllm.corpus.ingest import DROPPED_SCHEMA, Recipe
from rayllm.corpus.split import OVER_CAP, TRAIN, VALIDATION, Bounds, assign_split, document_keys

_SPLITS: dict[Split, int] = {"train": TRAIN, "validation": VALIDATION}
EXAMPLE_CHARS = 240


class PlannedPart(BaseModel):
    """A part of the first pass, and what becomes of its documents.

    Attributes:
        name: Its file name.
        domain: Its domain.
        split: Whether it comes from a training or a validation source.
        validation: Documents with smaller keys are for validation.
        train: Documents with smaller keys than this, but not than ``validation``, are for training.
    """

    name: str
    domain: str
    split: Split
    validation: float
    train: float

    def splits(self, hashes: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
        """The split of documents by their hashes, see ``split.assign_split``."""
        return assign_split(document_keys(hashes, seed), Bounds(self.validation, self.train))


class Plan(BaseModel):
    """All parts, in the order of precedence among duplicates."""

    parts: list[PlannedPart]


class PartTally(BaseModel):
    """What stays of a part, and what does not."""

    documents: dict[Split, int] = {"train": 0, "validation": 0}
    bytes: dict[Split, int] = {"train": 0, "validation": 0}
    dropped: dict[str, int] = {}


class Shard(BaseModel):
    """A shard to write: ``<split>/<domain>/<number>.parquet`` from the parts in ``[first, stop)`` of the plan."""

    domain: str
    split: Split
    number: int
    first: int
    stop: int
    own: bool
    """Whether the parts come from a source of this very split: then their dropped documents are written along."""


class ShardCounts(BaseModel):
    """What a shard holds.

    Attributes:
        documents: Number of documents.
        bytes: UTF-8 bytes of their texts.
        lengths: Documents by bytes.
        examples: The beginnings of two documents, of a domain's first shard only.
    """

    documents: int
    bytes: int
    lengths: Histogram
    examples: list[str] = []


def write_plan(plan: Plan, recipe: Recipe) -> None:
    """Leave the plan where all tasks find it."""
    storage.write_text(recipe.scratch("plan.json"), plan.model_dump_json())


def _read_plan(recipe: Recipe) -> Plan:
    return Plan.model_validate_json(storage.read_bytes(recipe.scratch("plan.json")))


def resolve_partition(partition: int, recipe: Recipe) -> list[PartTally]:
    """Second pass: find the duplicates among the documents of one partition, and count what stays.

    Returns:
        One tally for each part of the plan.
    """
    parts = _read_plan(recipe).parts
    keys = [read_group(recipe.scratch("keys", part.name), partition) for part in parts]
    hashes = [table.column("hash").to_numpy() for table in keys]
    split = np.concatenate([part.splits(h, recipe.seed) for part, h in zip(parts, hashes, strict=True)])
    part = np.repeat(np.arange(len(parts)), [len(h) for h in hashes])
    row, size = (np.concatenate([table.column(name).to_numpy() for table in keys]) for name in ("row", "bytes"))
    fits = split != OVER_CAP
    reason = np.zeros(len(split), np.int8)
    reason[fits] = find_duplicates(np.concatenate(hashes)[fits], split[fits] == VALIDATION)
    lost = reason != KEPT
    table = pa.table({"part": part[lost], "row": row[lost], "reason": reason[lost]})
    write_table(recipe.scratch("duplicates", f"{partition:04d}.parquet"), table)

    def count(mask: np.ndarray[Any, Any], weights: np.ndarray[Any, Any] | None = None) -> list[int]:
        chosen = None if weights is None else weights[mask].astype(np.float64)
        return np.bincount(part[mask], chosen, len(parts)).astype(np.int64).tolist()

    kept = {name: ~lost & (split == code) for name, code in _SPLITS.items()}
    documents = {name: count(mask) for name, mask in kept.items()}
    sizes = {name: count(mask, size) for name, mask in kept.items()}
    dropped = {name: count(reason == code) for code, name in REASONS.items()} | {"over_cap": count(~fits)}
    return [
        PartTally(
            documents={name: documents[name][index] for name in _SPLITS},
            bytes={name: sizes[name][index] for name in _SPLITS},
            dropped={name: counts[index] for name, counts in dropped.items() if counts[index]},
        )
        for index in range(len(parts))
    ]


def add_tallies(first: Sequence[PartTally], second: Sequence[PartTally]) -> list[PartTally]:
    """Sum the tallies of two partitions, part by part."""
    return [
        PartTally(
            documents={name: a.documents[name] + b.documents[name] for name in _SPLITS},
            bytes={name: a.bytes[name] + b.bytes[name] for name in _SPLITS},
            dropped=dict(Counter(a.dropped) + Counter(b.dropped)),
        )
        for a, b in zip(first, second, strict=True)
    ]


def plan_shards(plan: Plan, tallies: Sequence[PartTally], shard_bytes: int) -> list[Shard]:
    """Group consecutive parts of a domain to shards of about ``shard_bytes`` of text; no shard is empty."""
    shards: list[Shard] = []
    for domain, source, indices in _domain_parts(plan):
        for split in _SPLITS:
            ranges = list(_group(indices, split, tallies, shard_bytes))
            for number, (first, stop) in enumerate(ranges):
                shards.append(
                    Shard(domain=domain, split=split, number=number, first=first, stop=stop, own=split == source)
                )
    return shards


def _domain_parts(plan: Plan) -> Iterator[tuple[str, Split, list[int]]]:
    """The parts of each domain and split; they are consecutive in the plan."""
    places: dict[tuple[str, Split], list[int]] = {}
    for index, part in enumerate(plan.parts):
        places.setdefault((part.domain, part.split), []).append(index)
    for (domain, split), indices in places.items():
        yield domain, split, indices


def _group(
    indices: Sequence[int], split: Split, tallies: Sequence[PartTally], shard_bytes: int
) -> Iterator[tuple[int, int]]:
    first, held = indices[0], 0
    for index in indices:
        size = tallies[index].bytes[split]
        if held and size and held + size > shard_bytes:
            yield first, index
            first, held = index, 0
        held += size
    if held:
        yield first, indices[-1] + 1


def write_shard(shard: Shard, recipe: Recipe) -> ShardCounts:
    """Third pass: write the documents of a shard, in the order of the sources.

    Raises:
        SetupError: If it cannot be written.
    """
    parts = _read_plan(recipe).parts[shard.first : shard.stop]
    duplicates = _read_duplicates(shard, recipe)
    kept: list[pa.Table] = []
    for offset, part in enumerate(parts):
        table = read_table(recipe.scratch("documents", part.name))
        split = part.splits(table.column("hash").to_numpy(), recipe.seed)
        lost = duplicates.filter(pc.field("part") == shard.first + offset)
        reasons = np.zeros(table.num_rows, np.int8)
        reasons[lost.column("row").to_numpy()] = lost.column("reason").to_numpy()
        kept.append(table.filter(pa.array((reasons == KEPT) & (split == _SPLITS[shard.split]))))
        if recipe.keep_dropped and shard.own:
            _write_dropped(table, reasons, split == OVER_CAP, part, recipe)
    documents = pa.concat_tables(kept).select(CORPUS_SCHEMA.names)
    write_table(storage.join(recipe.output, shard.split, shard.domain, f"{shard.number:05d}.parquet"), documents)
    sizes = pc.binary_length(documents.column("text")).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
    return ShardCounts(
        documents=documents.num_rows,
        bytes=int(sizes.sum()),
        lengths=histogram(sizes, np.ones_like(sizes)),
        examples=_examples(documents) if shard.number == 0 else [],
    )


def add_counts(first: ShardCounts, second: ShardCounts) -> ShardCounts:
    """The counts of two shards together."""
    return ShardCounts(
        documents=first.documents + second.documents,
        bytes=first.bytes + second.bytes,
        lengths=merge(first.lengths, second.lengths),
        examples=first.examples or second.examples,
    )


def _read_duplicates(shard: Shard, recipe: Recipe) -> pa.Table:
    wanted = (pc.field("part") >= shard.first) & (pc.field("part") < shard.stop)
    tables = [
        read_table(recipe.scratch("duplicates", f"{partition:04d}.parquet")).filter(wanted)
        for partition in range(recipe.partitions)
    ]
    return pa.concat_tables(tables)


def _write_dropped(
    table: pa.Table, reasons: np.ndarray[Any, Any], over_cap: np.ndarray[Any, Any], part: PlannedPart, recipe: Recipe
) -> None:
    names = ["over_cap" if over else REASONS.get(int(code), "") for code, over in zip(reasons, over_cap, strict=True)]
    dropped = table.select(CORPUS_SCHEMA.names).append_column("reason", pa.array(names))
    dropped = dropped.filter(pc.field("reason") != "").cast(DROPPED_SCHEMA)
    if dropped.num_rows:
        write_table(recipe.dropped(part.domain, f"{part.split}-{part.name}"), dropped)


def _examples(documents: pa.Table) -> list[str]:
    """The beginnings of the documents at one and two thirds of the way."""
    rows = sorted({documents.num_rows // 3, 2 * documents.num_rows // 3})
    return [documents.column("text")[row].as_py()[:EXAMPLE_CHARS] for row in rows]
