"""A whole preparation: three passes over units, partitions and shards, run by any map function.

In: sources and settings. Out: the files of the corpus artifact and its counts. Tasks take and return small JSON texts;
documents go from scratch file to scratch file. So the same code runs in a plain loop (``map``) and on Ray.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

from pydantic import BaseModel, Field

from rayllm.core import storage
from rayllm.core.config import ConfigModel, Count
from rayllm.core.errors import DataError
from rayllm.core.log import get_logger
from rayllm.corpus.card import DomainCard, card_json, card_markdown
from rayllm.corpus.dedup import partition_count
from rayllm.corpus.documents import Unit
from rayllm.corpus.files.tables import named_write_errors, write_checked
from rayllm.corpus.histogram import Histogram, merge
from rayllm.corpus.ingest import Recipe, UnitCounts, ingest_unit, part_name
from rayllm.corpus.quality import RulesByContent
from rayllm.corpus.shards import (
    PartTally,
    Plan,
    PlannedPart,
    Shard,
    ShardCounts,
    add_counts,
    add_tallies,
    plan_shards,
    resolve_partition,
    write_plan,
    write_shard,
)
from rayllm.corpus.sources import Source, ValidationConfig, list_units
from rayllm.corpus.split import Bounds, plan_bounds, plan_validation_bounds

logger = get_logger(__name__)

#: So many bad rows in a source never stop a preparation, whatever their share.
TOLERATED_BAD_ROWS = 10
#: Bad rows that an error names.
MAX_NAMED_BAD_ROWS = 3

#: Applies a task to texts and yields what it returns, in order; tasks may run anywhere and at any time.
TaskMap = Callable[[Callable[[str], str], Sequence[str]], Iterable[str]]


class BuildSettings(ConfigModel):
    """How a corpus is cut and filtered; the run file's ``prepare:``."""

    unit_bytes: Count = Field(default=8 << 20, ge=1, description="Input that one task reads, in bytes.")
    shard_bytes: Count = Field(default=16 << 20, ge=1, description="Text in one shard of the corpus, in bytes.")
    max_row_bytes: Count = Field(
        default=16 << 20, ge=1, description="Longer lines and files go into quarantine, in bytes."
    )
    max_bad_frac: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Share of a source's rows that may be unusable; ten bad rows are always tolerated.",
    )
    max_bytes_per_domain: Count | None = Field(
        default=None, ge=1, description="Most training text of a domain, in bytes, chosen by hash; null: no limit."
    )
    keep_dropped: bool = Field(
        default=False, description="Whether dropped documents are written to `dropped/<domain>/`."
    )
    rules: RulesByContent = Field(default=RulesByContent(), description="Quality rules by the `content` of sources.")


@dataclass(frozen=True)
class _Job:
    """A preparation under way: what was asked for, and how tasks are run."""

    sources: Mapping[str, list[Source]]
    validation: ValidationConfig
    settings: BuildSettings
    recipe: Recipe
    units: Sequence[Unit]
    run: TaskMap


def build_corpus(
    sources: Mapping[str, list[Source]],
    validation: ValidationConfig,
    settings: BuildSettings,
    *,
    seed: int,
    output: str,
    run: TaskMap,
) -> dict[str, Any]:
    """Make a corpus; what is in ``output`` before is removed.

    Args:
        sources: Training sources of each domain.
        validation: Where validation documents come from.
        settings: How to cut and filter.
        seed: The run's seed: it decides what is held out, and what is generated.
        output: URI of the directory to fill.
        run: Runs tasks, here or elsewhere.

    Returns:
        The counts of the artifact, see ``docs/design.md``.

    Raises:
        DataError: If a source has nothing to read or too many bad rows, or a domain is empty in the end.
        SetupError: If ``output`` cannot be written.
    """
    storage.remove(output)
    job = _plan_job(sources, validation, settings, seed=seed, output=output, run=run)
    counts = _ingest(job)
    cards = _start_cards(job, counts)
    _check_bad_rows(job, counts)
    plan = _plan_parts(job, counts)
    tallies = _resolve(job, plan, cards)
    _check_domains(job, plan, tallies, cards, counts)
    _write_shards(job, plan, tallies, cards)
    _write_quarantine(job, counts)
    write_checked(storage.join(output, "card.json"), json.dumps(card_json(cards), indent=1).encode() + b"\n")
    write_checked(storage.join(output, "data_card.md"), card_markdown(cards).encode())
    storage.remove(job.recipe.scratch())
    return {"domains": {name: card.counts() for name, card in cards.items()}}


def _plan_job(
    sources: Mapping[str, list[Source]],
    validation: ValidationConfig,
    settings: BuildSettings,
    *,
    seed: int,
    output: str,
    run: TaskMap,
) -> _Job:
    units = list_units(sources, "train", settings.unit_bytes)
    units += list_units(validation.sources, "validation", settings.unit_bytes, "validation.sources")
    recipe = Recipe(
        sources={"train": sources, "validation": validation.sources},
        rules=settings.rules,
        seed=seed,
        output=output,
        part_bytes=settings.shard_bytes,
        max_row_bytes=settings.max_row_bytes,
        keep_dropped=settings.keep_dropped,
        partitions=partition_count(sum(unit.bytes for unit in units)),
    )
    return _Job(sources, validation, settings, recipe, units, run)


def _ingest(job: _Job) -> list[UnitCounts]:
    """First pass."""
    logger.info("prepare: reading %s units of %s domains", f"{len(job.units):,}", len(job.sources))
    items = [json.dumps({"index": index, "unit": unit.model_dump()}) for index, unit in enumerate(job.units)]
    results = job.run(partial(_ingest_task, recipe=job.recipe), items)
    return [UnitCounts.model_validate_json(text) for text in results]


def _ingest_task(item: str, recipe: Recipe) -> str:
    value = json.loads(item)
    return ingest_unit(value["index"], Unit.model_validate(value["unit"]), recipe).model_dump_json()


def _start_cards(job: _Job, counts: Sequence[UnitCounts]) -> dict[str, DomainCard]:
    cards = {name: DomainCard(sources=_describe(job, name)) for name in sorted(job.sources)}
    for unit, count in zip(job.units, counts, strict=True):
        card = cards[unit.domain]
        card.read += count.read
        card.drop(count.dropped)
        card.quarantine(count.bad)
    return cards


def _describe(job: _Job, domain: str) -> list[str]:
    """Kind and path of each source of a domain."""
    texts = []
    for split, sources in (("train", job.sources[domain]), ("validation", job.validation.sources.get(domain, []))):
        for source in sources:
            path = ", ".join(getattr(source, "path", []))
            texts.append(f"{source.kind}{' ' * bool(path)}{path} ({split})")
    return texts


def _check_bad_rows(job: _Job, counts: Sequence[UnitCounts]) -> None:
    """Refuse a source with too many bad rows, naming the first ones."""
    for key, members in itertools.groupby(range(len(job.units)), lambda index: _source_of(job.units[index])):
        indices = list(members)
        bad = sum(sum(counts[index].bad.values()) for index in indices)
        total = bad + sum(counts[index].read for index in indices)
        if bad <= max(TOLERATED_BAD_ROWS, job.settings.max_bad_frac * total):
            continue
        domain, split, _ = key
        places = _first_places(job, counts, indices)
        raise DataError(
            f"{bad:,} of {total:,} rows of a source cannot be used",
            where=f"{'validation.' if split == 'validation' else ''}sources.{domain}",
            why="; ".join(places),
            fix="repair the files, correct the source's settings (`text`, `template`), or raise prepare.max_bad_frac",
        )


def _first_places(job: _Job, counts: Sequence[UnitCounts], indices: Sequence[int]) -> list[str]:
    """Where the first bad rows of some units are, and what is wrong with them."""
    bases = _line_bases(job.units, counts)
    places = (
        f"{_place(label, row, bases[index])}: {reason}"
        for index in indices
        for label, row, reason in counts[index].places
    )
    return list(itertools.islice(places, MAX_NAMED_BAD_ROWS))


def _source_of(unit: Unit) -> tuple[str, str, int]:
    return unit.domain, unit.split, unit.source


def _place(label: str, row: int | None, base: int) -> str:
    return label if row is None else f"{label}:{base + row}"


def _line_bases(units: Sequence[Unit], counts: Sequence[UnitCounts]) -> list[int]:
    """For each unit, the lines of its file that earlier units read."""
    bases, base = [], 0
    for unit, count in zip(units, counts, strict=True):
        base = base if unit.start and unit.files else 0
        bases.append(base if count.lines else 0)
        base += count.lines
    return bases


def _plan_parts(job: _Job, counts: Sequence[UnitCounts]) -> Plan:
    """Choose what each domain holds out and leaves out, and list the parts."""
    bounds = {key: _bounds(job, key, members) for key, members in _by_domain(job, counts).items()}
    parts = []
    for index, (unit, count) in enumerate(zip(job.units, counts, strict=True)):
        bound = bounds[unit.domain, unit.split]
        for number in range(len(count.parts)):
            name = part_name(index, number)
            parts.append(
                PlannedPart(
                    name=name, domain=unit.domain, split=unit.split, validation=bound.validation, train=bound.train
                )
            )
    return Plan(parts=parts)


def _by_domain(job: _Job, counts: Sequence[UnitCounts]) -> dict[tuple[str, str], list[UnitCounts]]:
    found: dict[tuple[str, str], list[UnitCounts]] = {}
    for unit, count in zip(job.units, counts, strict=True):
        found.setdefault((unit.domain, unit.split), []).append(count)
    return found


def _bounds(job: _Job, key: tuple[str, str], counts: Sequence[UnitCounts]) -> Bounds:
    domain, split = key
    sizes: Histogram = reduce(merge, (count.histogram for count in counts), {})
    if split == "validation":
        return plan_validation_bounds(sizes, job.validation.max_bytes_per_domain)
    return plan_bounds(
        sizes,
        min(count.smallest for count in counts),
        heldout_frac=0.0 if domain in job.validation.sources else job.validation.heldout_frac,
        validation_bytes=job.validation.max_bytes_per_domain,
        train_bytes=job.settings.max_bytes_per_domain,
    )


def _resolve(job: _Job, plan: Plan, cards: Mapping[str, DomainCard]) -> list[PartTally]:
    """Second pass."""
    if not plan.parts:
        return []
    write_plan(plan, job.recipe)
    results = job.run(partial(_resolve_task, recipe=job.recipe), [str(part) for part in range(job.recipe.partitions)])
    tallies = reduce(add_tallies, (Tallies.model_validate_json(text).parts for text in results))
    for part, tally in zip(plan.parts, tallies, strict=True):
        cards[part.domain].drop(tally.dropped)
    return tallies


class Tallies(BaseModel):
    """What a task of the second pass returns."""

    parts: list[PartTally]


def _resolve_task(item: str, recipe: Recipe) -> str:
    return Tallies(parts=resolve_partition(int(item), recipe)).model_dump_json()


def _check_domains(
    job: _Job,
    plan: Plan,
    tallies: Sequence[PartTally],
    cards: Mapping[str, DomainCard],
    counts: Sequence[UnitCounts],
) -> None:
    """Refuse a domain of which nothing is left."""
    documents: Counter[tuple[str, str]] = Counter()
    for part, tally in zip(plan.parts, tallies, strict=True):
        for split, number in tally.documents.items():
            documents[part.domain, split] += number

    def losses(name: str) -> str:
        members = [index for index, unit in enumerate(job.units) if unit.domain == name]
        return "; ".join([cards[name].drop_table(), *_first_places(job, counts, members)])

    for name in cards:
        if not documents[name, "train"]:
            raise DataError(
                "a domain has no training documents left",
                where=f"sources.{name}",
                why=losses(name),
                fix="relax prepare.rules, correct the source, or give it more (a single document is held out)",
            )
        wanted = name in job.validation.sources or job.validation.heldout_frac > 0
        if wanted and not documents[name, "validation"]:
            raise DataError(
                "a domain has no validation documents left",
                where=f"validation.sources.{name}" if name in job.validation.sources else f"sources.{name}",
                why=losses(name),
                fix="correct the validation source, or raise validation.heldout_frac or max_bytes_per_domain",
            )


def _write_shards(job: _Job, plan: Plan, tallies: Sequence[PartTally], cards: Mapping[str, DomainCard]) -> None:
    """Third pass."""
    shards = plan_shards(plan, tallies, job.settings.shard_bytes)
    logger.info("prepare: writing %s shards", f"{len(shards):,}")
    results = job.run(partial(_shard_task, recipe=job.recipe), [shard.model_dump_json() for shard in shards])
    for shard, text in zip(shards, results, strict=True):
        counts = ShardCounts.model_validate_json(text)
        splits = cards[shard.domain].splits
        splits[shard.split] = add_counts(splits[shard.split], counts) if shard.split in splits else counts


def _shard_task(item: str, recipe: Recipe) -> str:
    return write_shard(Shard.model_validate_json(item), recipe).model_dump_json()


def _write_quarantine(job: _Job, counts: Sequence[UnitCounts]) -> None:
    """Join the units' bad rows, their numbers counted from the beginning of the file."""
    target = storage.join(job.recipe.output, "quarantine.jsonl")
    bases = _line_bases(job.units, counts)
    with named_write_errors(target), storage.open_file(target, "wb") as file:
        for index, count in enumerate(counts):
            if count.bad:
                for line in storage.read_bytes(job.recipe.scratch("bad", f"{index:06d}.jsonl")).splitlines():
                    file.write(_placed(json.loads(line), bases[index]))


def _placed(record: dict[str, Any], base: int) -> bytes:
    row = record.pop("row")
    place = "" if row is None else str(base + row)
    return (
        json.dumps({"domain": record["domain"], "source": record["source"], "place": place, **record}).encode() + b"\n"
    )
