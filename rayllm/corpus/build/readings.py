"""What the driver keeps of the first pass: sums by domain, and for each unit a few numbers and its first bad rows.

From it come the plan of the later passes, the error about a source with too many bad rows, and the quarantine's list.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayllm.core import storage
from rayllm.core.errors import DataError
from rayllm.corpus.build.ingest import UnitCounts, part_name
from rayllm.corpus.build.plan import Plan, PlannedPart
from rayllm.corpus.build.recipe import Recipe
from rayllm.corpus.card.content import DomainCard
from rayllm.corpus.card.histogram import Histogram, merge
from rayllm.corpus.card.tally import Scores
from rayllm.corpus.documents import Split, Unit
from rayllm.corpus.overlap.minhash import NearDuplicatesConfig
from rayllm.corpus.sources import ValidationConfig
from rayllm.corpus.split import Bounds, plan_bounds, plan_validation_bounds

#: So many bad rows in a source never stop a preparation, whatever their share.
TOLERATED_BAD_ROWS = 10
#: Bad rows that an error names.
MAX_NAMED_BAD_ROWS = 3

_Key = tuple[str, Split]


class Readings:
    """Adds up what the tasks of the first pass return, unit by unit.

    Args:
        units: All units, in order.
        cards: The card of each domain; they are filled.
    """

    def __init__(self, units: Sequence[Unit], cards: Mapping[str, DomainCard]) -> None:
        self.units, self.cards = units, cards
        self.counts: list[UnitCounts] = []
        self._sizes: dict[_Key, Histogram] = {}
        self._smallest: dict[_Key, float] = {}

    def add(self, count: UnitCounts) -> None:
        """Take the counts of the next unit."""
        unit = self.units[len(self.counts)]
        key = (unit.domain, unit.split)
        self.cards[unit.domain].add_unit(count)
        self._sizes[key] = merge(self._sizes.get(key, {}), count.histogram)
        self._smallest[key] = min(self._smallest.get(key, 1.0), count.smallest)
        # What has been added up need not be held for each of what may be a hundred thousand units.
        spent = {"histogram": {}, "examples": {}, "languages": {}, "scores": Scores(), "dropped": {}}
        self.counts.append(count.model_copy(update=spent))

    def check_bad_rows(self, max_bad_frac: float) -> None:
        """Refuse a source with too many bad rows, naming the first ones.

        Raises:
            DataError: If there is one.
        """
        for key, members in itertools.groupby(range(len(self.units)), lambda index: _source_of(self.units[index])):
            indices = list(members)
            bad = sum(sum(self.counts[index].bad.values()) for index in indices)
            total = bad + sum(self.counts[index].read.documents for index in indices)
            if bad <= max(TOLERATED_BAD_ROWS, max_bad_frac * total):
                continue
            domain, split, _ = key
            raise DataError(
                f"{bad:,} of {total:,} rows of a source cannot be used",
                where=f"{'validation.' if split == 'validation' else ''}sources.{domain}",
                why="; ".join(self._first_places(indices)),
                fix="repair the files, correct the source's settings (`text`, `template`), or raise "
                "prepare.max_bad_frac",
            )

    def losses(self, domain: str) -> str:
        """What was read of a domain and why it was left out, with the first bad rows, in one line."""
        members = [index for index, unit in enumerate(self.units) if unit.domain == domain]
        return "; ".join([self.cards[domain].drop_table(), *self._first_places(members)])

    def plan(
        self,
        validation: ValidationConfig,
        max_bytes: int | None,
        recipe: Recipe,
    ) -> Plan:
        """Choose what each domain holds out and leaves out, and list the parts.

        Args:
            validation: How much is held out.
            max_bytes: Most training text of a domain, in bytes.
            recipe: Says which near-duplicates are looked for.
        """
        bounds = {key: self._bounds(key, validation, max_bytes) for key in self._sizes}
        return Plan(
            parts=[
                PlannedPart(
                    name=part_name(index, number),
                    domain=unit.domain,
                    split=unit.split,
                    documents=documents,
                    validation=bounds[unit.domain, unit.split].validation,
                    train=bounds[unit.domain, unit.split].train,
                    near=_is_compared(unit, recipe),
                )
                for index, (unit, count) in enumerate(zip(self.units, self.counts, strict=True))
                for number, documents in enumerate(count.parts)
            ]
        )

    def _bounds(self, key: _Key, validation: ValidationConfig, max_bytes: int | None) -> Bounds:
        domain, split = key
        if split == "validation":
            return plan_validation_bounds(self._sizes[key], validation.max_bytes_per_domain)
        return plan_bounds(
            self._sizes[key],
            self._smallest[key],
            heldout_frac=0.0 if domain in validation.sources else validation.heldout_frac,
            validation_bytes=validation.max_bytes_per_domain,
            train_bytes=max_bytes,
        )

    def quarantine(self, recipe: Recipe) -> Iterator[bytes]:
        """The lines of the list of bad rows, their numbers counted from the beginning of the file."""
        bases = self._line_bases()
        for index, count in enumerate(self.counts):
            if count.bad:
                for line in storage.read_bytes(recipe.scratch("bad", f"{index:06d}.jsonl")).splitlines():
                    yield _placed(json.loads(line), bases[index])

    def matches(self, recipe: Recipe) -> Iterator[bytes]:
        """The lines about evaluation items that were found."""
        for index, count in enumerate(self.counts):
            if count.contaminated:
                yield storage.read_bytes(recipe.scratch("matches", f"{index:06d}.jsonl"))

    def _first_places(self, indices: Sequence[int]) -> list[str]:
        """Where the first bad rows of some units are, and what is wrong with them."""
        bases = self._line_bases()
        places = (
            f"{_place(label, row, bases[index])}: {reason}"
            for index in indices
            for label, row, reason in self.counts[index].places
        )
        return list(itertools.islice(places, MAX_NAMED_BAD_ROWS))

    def _line_bases(self) -> list[int]:
        """For each unit, the lines of its file that earlier units read."""
        bases, base = [], 0
        for unit, count in zip(self.units, self.counts, strict=True):
            base = base if unit.start and unit.files else 0
            bases.append(base if count.lines else 0)
            base += count.lines
        return bases


def _is_compared(unit: Unit, recipe: Recipe) -> bool:
    near: NearDuplicatesConfig | None = recipe.settings.near_duplicates
    return near is not None and near.applies_to(recipe.sources[unit.split][unit.domain][unit.source].content)


def _source_of(unit: Unit) -> tuple[str, str, int]:
    return unit.domain, unit.split, unit.source


def _place(label: str, row: int | None, base: int) -> str:
    return label if row is None else f"{label}:{base + row}"


def _placed(record: dict[str, Any], base: int) -> bytes:
    row = record.pop("row")
    place = "" if row is None else str(base + row)
    line = {"domain": record["domain"], "source": record["source"], "place": place, **record}
    return json.dumps(line).encode() + b"\n"
