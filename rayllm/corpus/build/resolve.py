"""Second pass: which copy of each document stays.

Exact duplicates: a task looks at one partition of the content hashes, over all parts. Near-duplicates: a task looks at
some bands and a slice of their hashes, over all parts, and writes the pairs; then one task makes clusters of all pairs
and lists who does not survive. No hash and no pair ever comes to the driver.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from rayllm.corpus.build.ingest import band_name
from rayllm.corpus.build.notes import Outputs
from rayllm.corpus.build.plan import SPLITS, PartTally, PlannedPart, read_lost, read_part, read_plan, write_lost
from rayllm.corpus.build.recipe import Recipe
from rayllm.corpus.card.tally import EXAMPLE_CHARS, Amount
from rayllm.corpus.documents import Split
from rayllm.corpus.files.tables import read_group, read_table
from rayllm.corpus.overlap import clusters
from rayllm.corpus.overlap.clusters import Losses, document_numbers, find_losses, find_pairs, places
from rayllm.corpus.overlap.exact import KEPT, REASONS, find_duplicates, partition_of
from rayllm.corpus.split import OVER_CAP, VALIDATION

#: Input whose band hashes one task may hold, in bytes: some hundred megabytes of hashes.
_TASK_INPUT_BYTES = 4 << 30
#: Name of the list of near-duplicates.
NEAR = "near"
#: Clusters that the data card shows, and documents of each.
MAX_CLUSTERS, MAX_MEMBERS = 5, 3


def exact_name(partition: int) -> str:
    """Name of a partition's list of duplicates."""
    return f"exact-{partition:04d}"


class Tallies(BaseModel):
    """What is to be added to the tally of each part, by the part's place in the plan."""

    parts: dict[int, PartTally] = {}


def resolve_partition(partition: int, recipe: Recipe, outputs: Outputs) -> Tallies:
    """Find the duplicates among the documents of one partition, and count what stays."""
    parts = read_plan(recipe).parts
    keys = [read_group(recipe.scratch("keys", part.name), partition) for part in parts]
    hashes = [table.column("hash").to_numpy() for table in keys]
    split = np.concatenate([part.splits(h, recipe.seed) for part, h in zip(parts, hashes, strict=True)])
    part = np.repeat(np.arange(len(parts)), [len(h) for h in hashes])
    row, size = (np.concatenate([table.column(name).to_numpy() for table in keys]) for name in ("row", "bytes"))
    fits = split != OVER_CAP
    reason = np.zeros(len(split), np.int8)
    reason[fits] = find_duplicates(np.concatenate(hashes)[fits], split[fits] == VALIDATION)
    lost = reason != KEPT
    write_lost(outputs, recipe, exact_name(partition), {"part": part[lost], "row": row[lost], "reason": reason[lost]})
    kept: dict[Split, list[Amount]] = {
        name: _amounts(part, size, ~lost & (split == code), len(parts)) for name, code in SPLITS.items()
    }
    dropped = {name: _amounts(part, size, reason == code, len(parts)) for code, name in REASONS.items()}
    dropped["over_cap"] = _amounts(part, size, ~fits, len(parts))
    return Tallies(
        parts={
            index: PartTally(
                kept={name: amounts[index] for name, amounts in kept.items()},
                dropped={name: amounts[index] for name, amounts in dropped.items() if amounts[index].documents},
            )
            for index in range(len(parts))
        }
    )


def _amounts(
    part: np.ndarray[Any, Any], size: np.ndarray[Any, Any], mask: np.ndarray[Any, Any], count: int
) -> list[Amount]:
    """Documents and bytes of each part among those of a mask."""
    documents = np.bincount(part[mask], minlength=count).tolist()
    sizes = np.bincount(part[mask], size[mask].astype(np.float64), count).astype(np.int64).tolist()
    return [Amount(documents=d, bytes=b) for d, b in zip(documents, sizes, strict=True)]


class BandTask(BaseModel):
    """Bands in ``[first, stop)``, and which of ``slices`` equal slices of their hashes."""

    first: int
    stop: int
    slice: int = 0
    slices: int = 1

    @property
    def name(self) -> str:
        """Name of its file of pairs."""
        return f"{self.first:04d}-{self.slice:04d}"


def plan_bands(bands: int, input_bytes: int) -> list[BandTask]:
    """Cut the work on band hashes so that each task holds a bounded part of them: first by bands, then by hash."""
    needed = 1 + input_bytes * bands // (_TASK_INPUT_BYTES * 14)
    if needed <= bands:
        edges = np.linspace(0, bands, needed + 1).astype(int).tolist()
        return [BandTask(first=first, stop=stop) for first, stop in pairwise(edges)]
    slices = -(-needed // bands)
    return [
        BandTask(first=band, stop=band + 1, slice=number, slices=slices)
        for band in range(bands)
        for number in range(slices)
    ]


def pair_bands(task: BandTask, recipe: Recipe, outputs: Outputs) -> None:
    """Write the pairs of documents that agree in one of the task's bands, as few as hold their clusters together."""
    numbers: list[np.ndarray[Any, Any]] = []
    columns: list[pa.Table] = []
    names = [band_name(band) for band in range(task.first, task.stop)]
    for index, part in enumerate(read_plan(recipe).parts):
        if part.near:
            documents, fits = _numbers(index, part, recipe)
            numbers.append(documents[fits])
            columns.append(read_table(recipe.scratch("bands", part.name), names).filter(pa.array(fits)))
    documents = np.concatenate(numbers)
    table = pa.concat_tables(columns)
    pairs = []
    for band, name in enumerate(names):
        hashes = table.column(name).to_numpy()
        chosen = partition_of(hashes, task.slices) == task.slice
        pairs.append(find_pairs(band, hashes[chosen], documents[chosen]))
    losses = find_losses(np.concatenate(pairs))
    found = pa.table({"survivor": losses.survivors, "document": losses.documents})
    outputs.table(recipe.scratch("pairs", f"{task.name}.parquet"), found)


def _numbers(index: int, part: PlannedPart, recipe: Recipe) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Numbers of a part's documents (see ``clusters``), and which of them are within the limits on bytes."""
    hashes = read_part(part, recipe, ["hash"]).column("hash").to_numpy()
    split = part.splits(hashes, recipe.seed)
    return document_numbers(index, np.arange(len(hashes)), split == VALIDATION), split != OVER_CAP


class Cluster(BaseModel):
    """Documents that are nearly the same: how many, and the beginnings of a few, the survivor first."""

    documents: int
    examples: list[str]


class NearResult(BaseModel):
    """What the task on clusters says.

    Attributes:
        clusters: Number of clusters of at least two documents.
        largest: The largest of them.
        tallies: What is to be added to the parts' tallies: what the first look at them kept and this takes away.
    """

    clusters: int = 0
    largest: list[Cluster] = []
    tallies: Tallies = Tallies()


def resolve_near(tasks: Sequence[BandTask], recipe: Recipe, outputs: Outputs) -> NearResult:
    """Make clusters of all pairs, and list the documents that do not survive and are not lost already."""
    parts = read_plan(recipe).parts
    tables = [read_table(recipe.scratch("pairs", f"{task.name}.parquet")) for task in tasks]
    pairs = np.concatenate([np.stack([t.column(n).to_numpy() for n in ("survivor", "document")], 1) for t in tables])
    losses = _without_exact(find_losses(pairs), recipe, len(parts))
    part, row = places(losses.documents)
    order = np.lexsort((row, part))
    lost = {"part": part[order], "row": row[order], "reason": losses.reasons[order]}
    write_lost(outputs, recipe, NEAR, lost)
    survivors, counts = np.unique(losses.survivors, return_counts=True)
    largest = [int(survivors[index]) for index in np.lexsort((survivors, -counts))[:MAX_CLUSTERS]]
    return NearResult(
        clusters=len(survivors),
        largest=[_cluster(survivor, losses, parts, recipe) for survivor in largest],
        tallies=Tallies(parts=dict(_near_tallies(lost, parts, recipe))),
    )


def _without_exact(losses: Losses, recipe: Recipe, parts: int) -> Losses:
    """Leave out documents that are lost as exact duplicates: their reason stays."""
    lost = read_lost(recipe, [exact_name(number) for number in range(recipe.partitions)], 0, parts)
    exact = (lost.column("part").to_numpy().astype(np.int64) << 32) + lost.column("row").to_numpy()
    part, row = places(losses.documents)
    keep = ~np.isin((part << 32) + row, exact)
    return Losses(losses.documents[keep], losses.reasons[keep], losses.survivors[keep])


def _cluster(survivor: int, losses: Losses, parts: Sequence[PlannedPart], recipe: Recipe) -> Cluster:
    members = losses.documents[losses.survivors == survivor]
    shown = np.r_[survivor, members[: MAX_MEMBERS - 1]]
    texts = [
        read_part(parts[part], recipe, ["text"]).column("text")[row].as_py()
        for part, row in zip(*(array.tolist() for array in places(shown)), strict=True)
    ]
    return Cluster(documents=1 + len(members), examples=[text[:EXAMPLE_CHARS] for text in texts])


def _near_tallies(
    lost: dict[str, np.ndarray[Any, Any]], parts: Sequence[PlannedPart], recipe: Recipe
) -> Iterator[tuple[int, PartTally]]:
    """For each part with losses, what it loses: taken from what is kept, added to what is dropped."""
    for index in np.unique(lost["part"]).tolist():
        mine = lost["part"] == index
        keys = read_table(recipe.scratch("keys", parts[index].name))
        order = np.argsort(keys.column("row").to_numpy())
        rows, reasons = lost["row"][mine], lost["reason"][mine]
        hashes, sizes = (keys.column(name).to_numpy()[order][rows] for name in ("hash", "bytes"))
        split = parts[index].splits(hashes, recipe.seed)
        names = [clusters.REASONS[code] for code in reasons.tolist()]
        taken: dict[Split, Amount] = {name: _sum(sizes[split == code], -1) for name, code in SPLITS.items()}
        dropped = {name: _sum(sizes[np.array(names) == name]) for name in Counter(names)}
        yield index, PartTally(kept=taken, dropped=dropped)


def _sum(sizes: np.ndarray[Any, Any], sign: int = 1) -> Amount:
    return Amount(documents=sign * len(sizes), bytes=sign * int(sizes.sum()))
