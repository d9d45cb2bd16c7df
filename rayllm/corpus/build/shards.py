"""Third pass: the shards of the corpus, each of one split of one domain, from consecutive parts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from rayllm.core import storage
from rayllm.corpus.build.ingest import DROPPED_SCHEMA
from rayllm.corpus.build.notes import Outputs
from rayllm.corpus.build.plan import LOST_REASONS, SPLITS, PartTally, Plan, read_lost, read_part, read_plan
from rayllm.corpus.build.recipe import Recipe
from rayllm.corpus.card.histogram import Histogram, histogram, merge
from rayllm.corpus.card.tally import EXAMPLE_CHARS, Amount, Examples, add_example, add_examples
from rayllm.corpus.documents import Split
from rayllm.corpus.files.tables import CORPUS_SCHEMA
from rayllm.corpus.overlap.exact import KEPT
from rayllm.corpus.split import OVER_CAP


class Shard(BaseModel):
    """A shard to write: ``<split>/<domain>/<number>.parquet`` from the parts in ``[first, stop)`` of the plan."""

    domain: str
    split: Split
    number: int
    first: int
    stop: int
    own: bool
    """Whether the parts come from a source of this very split: then their dropped documents are written along."""

    @property
    def name(self) -> str:
        """Its path in the corpus, without ending."""
        return f"{self.split}/{self.domain}/{self.number:05d}"


class ShardCounts(BaseModel):
    """What a shard holds.

    Attributes:
        total: Its documents.
        lengths: Documents by bytes.
        examples: The beginnings of two documents, of a domain's first shard only.
        dropped_examples: The beginnings of documents that were lost, by reason.
    """

    total: Amount = Amount()
    lengths: Histogram = {}
    examples: list[str] = []
    dropped_examples: Examples = {}

    def plus(self, other: "ShardCounts") -> "ShardCounts":
        """The counts of both together."""
        return ShardCounts(
            total=self.total.plus(other.total),
            lengths=merge(self.lengths, other.lengths),
            examples=self.examples or other.examples,
            dropped_examples=add_examples(self.dropped_examples, other.dropped_examples),
        )


def plan_shards(plan: Plan, tallies: Mapping[int, PartTally], shard_bytes: int) -> list[Shard]:
    """Group consecutive parts of a domain to shards of about ``shard_bytes`` of text; no shard is empty."""
    shards: list[Shard] = []
    for domain, source, indices in _domain_parts(plan):
        for split in SPLITS:
            sizes = [tallies[index].kept.get(split, Amount()).bytes for index in indices]
            ranges = list(_group(indices, sizes, shard_bytes))
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


def _group(indices: Sequence[int], sizes: Sequence[int], shard_bytes: int) -> Iterator[tuple[int, int]]:
    first, held = indices[0], 0
    for index, size in zip(indices, sizes, strict=True):
        if held and size and held + size > shard_bytes:
            yield first, index
            first, held = index, 0
        held += size
    if held:
        yield first, indices[-1] + 1


def write_shard(shard: Shard, lists: Sequence[str], recipe: Recipe, outputs: Outputs) -> ShardCounts:
    """Write the documents of a shard, in the order of the sources.

    Args:
        shard: Which.
        lists: Names of the lists of lost documents.
        recipe: What every task knows.
        outputs: Writes the files.

    Raises:
        SetupError: If it cannot be written.
    """
    parts = read_plan(recipe).parts[shard.first : shard.stop]
    lost = read_lost(recipe, lists, shard.first, shard.stop)
    kept: list[pa.Table] = []
    lost_examples: Examples = {}
    for offset, part in enumerate(parts):
        table = read_part(part, recipe)
        split = part.splits(table.column("hash").to_numpy(), recipe.seed)
        reasons = _reasons(lost.filter(pc.field("part") == shard.first + offset), table.num_rows)
        kept.append(table.filter(pa.array((reasons == KEPT) & (split == SPLITS[shard.split]))))
        if shard.own:
            dropped = _dropped(table, reasons, split == OVER_CAP)
            lost_examples = add_examples(lost_examples, _first_of_each(dropped))
            if recipe.settings.keep_dropped and dropped.num_rows:
                outputs.table(recipe.dropped(part.domain, f"{part.split}-{part.name}"), dropped)
    documents = pa.concat_tables(kept).select(CORPUS_SCHEMA.names)
    outputs.table(storage.join(recipe.output, f"{shard.name}.parquet"), documents)
    sizes = pc.call_function("binary_length", [documents.column("text")]).to_numpy()
    return ShardCounts(
        total=Amount(documents=documents.num_rows, bytes=int(sizes.sum())),
        lengths=histogram(sizes, np.ones_like(sizes)),
        examples=_examples(documents) if shard.number == 0 else [],
        dropped_examples=lost_examples,
    )


def _reasons(lost: pa.Table, rows: int) -> np.ndarray[Any, Any]:
    """The code of the reason why each document of a part is lost, or ``KEPT``."""
    reasons = np.zeros(rows, np.int8)
    reasons[lost.column("row").to_numpy()] = lost.column("reason").to_numpy()
    return reasons


def _dropped(table: pa.Table, reasons: np.ndarray[Any, Any], over_cap: np.ndarray[Any, Any]) -> pa.Table:
    """The documents of a part that are lost, with their reasons."""
    gone = np.flatnonzero(over_cap | (reasons != KEPT))
    names = ["over_cap" if over_cap[row] else LOST_REASONS[int(reasons[row])] for row in gone]
    dropped = table.select(CORPUS_SCHEMA.names).take(pa.array(gone))
    return dropped.append_column("reason", pa.array(names, pa.string())).cast(DROPPED_SCHEMA)


def _first_of_each(dropped: pa.Table) -> Examples:
    """The beginning of the first document of each reason."""
    found: Examples = {}
    reasons = dropped.column("reason").to_pylist()
    for reason in dict.fromkeys(reasons):
        add_example(found, reason, dropped.column("text")[reasons.index(reason)].as_py())
    return found


def _examples(documents: pa.Table) -> list[str]:
    """The beginnings of the documents at one and two thirds of the way."""
    rows = sorted({documents.num_rows // 3, 2 * documents.num_rows // 3})
    return [documents.column("text")[row].as_py()[:EXAMPLE_CHARS] for row in rows]
