"""The parts that the first pass has written, and what becomes of their documents: known to all later tasks.

Also the lists of documents that are lost as duplicates: written by some tasks, read by others, ordered by part.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from rayllm.core import storage
from rayllm.core.artifact import FileRecord
from rayllm.corpus.build.notes import Outputs
from rayllm.corpus.build.recipe import Recipe
from rayllm.corpus.card.tally import Amount, Amounts, add_amounts
from rayllm.corpus.documents import Split
from rayllm.corpus.files.tables import read_table, write_checked
from rayllm.corpus.overlap import clusters
from rayllm.corpus.overlap import exact as dedup
from rayllm.corpus.split import TRAIN, VALIDATION, Bounds, assign_split, document_keys

SPLITS: dict[Split, int] = {"train": TRAIN, "validation": VALIDATION}
#: Names of all reasons why a document is lost as a duplicate, by their codes in the lists.
LOST_REASONS = dedup.REASONS | clusters.REASONS


class PlannedPart(BaseModel):
    """A part of the first pass, and what becomes of its documents.

    Attributes:
        name: Its file name.
        domain: Its domain.
        split: Whether it comes from a training or a validation source.
        documents: How many it has.
        validation: Documents with smaller keys are for validation.
        train: Documents with smaller keys than this, but not than ``validation``, are for training.
        near: Whether near-duplicates of its documents are looked for.
    """

    name: str
    domain: str
    split: Split
    documents: int
    validation: float
    train: float
    near: bool = False

    def splits(self, hashes: np.ndarray[Any, Any], seed: int) -> np.ndarray[Any, Any]:
        """The split of documents by their hashes, see ``split.assign_split``."""
        return assign_split(document_keys(hashes, seed), Bounds(self.validation, self.train))


class Plan(BaseModel):
    """All parts, in the order of precedence among duplicates."""

    parts: list[PlannedPart]


class PartTally(BaseModel):
    """What stays of a part for each split, and what is dropped, by reason."""

    kept: dict[Split, Amount] = {}
    dropped: Amounts = {}

    def plus(self, other: "PartTally") -> "PartTally":
        """The sum."""
        kept: dict[Split, Amount] = {
            split: self.kept.get(split, Amount()).plus(other.kept.get(split, Amount())) for split in SPLITS
        }
        return PartTally(kept=kept, dropped=add_amounts(self.dropped, other.dropped))


def write_plan(plan: Plan, recipe: Recipe) -> FileRecord:
    """Leave the plan where all tasks find it."""
    return write_checked(recipe.scratch("plan.json"), plan.model_dump_json().encode())


def read_plan(recipe: Recipe) -> Plan:
    """The plan that ``write_plan`` wrote."""
    return Plan.model_validate_json(storage.read_bytes(recipe.scratch("plan.json")))


def read_part(part: PlannedPart, recipe: Recipe, columns: Sequence[str] | None = None) -> pa.Table:
    """The documents of a part, or some columns of them."""
    return read_table(recipe.scratch("documents", part.name), None if columns is None else list(columns))


def write_lost(outputs: Outputs, recipe: Recipe, name: str, columns: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write a list of lost documents: ``part``, ``row`` and ``reason`` of each, ordered by part."""
    outputs.table(recipe.scratch("lost", f"{name}.parquet"), pa.table(dict(columns)))


def read_lost(recipe: Recipe, names: Sequence[str], first: int, stop: int) -> pa.Table:
    """The lost documents of the parts in ``[first, stop)``, from the lists of some names."""
    wanted = (pc.field("part") >= first) & (pc.field("part") < stop)
    tables = [table.filter(wanted) for name in names for table in _groups(recipe, name, first, stop)]
    return pa.concat_tables(tables) if tables else _NOTHING


_NOTHING = pa.table({"part": np.empty(0, np.int64), "row": np.empty(0, np.int64), "reason": np.empty(0, np.int8)})


def _groups(recipe: Recipe, name: str, first: int, stop: int) -> Iterator[pa.Table]:
    """The row groups of a list that may hold one of the parts."""
    with storage.open_file(recipe.scratch("lost", f"{name}.parquet")) as file:
        parquet = pq.ParquetFile(file)
        for index in range(parquet.num_row_groups):
            group = parquet.metadata.row_group(index)
            if group.num_rows and group.column(0).statistics.min < stop and group.column(0).statistics.max >= first:
                yield parquet.read_row_group(index)
