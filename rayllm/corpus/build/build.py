"""A whole preparation: passes over units, partitions and shards, run by any map function.

In: sources and settings. Out: the files of the corpus artifact and its counts. Tasks take and return small JSON texts;
documents go from scratch file to scratch file. So the same code runs in a plain loop (``map``) and on Ray. Every task
leaves a note when it is done (``notes``), so that after a stop, whenever it came, only unfinished tasks are run again.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rayllm.core import storage
from rayllm.core.artifact import content_hash
from rayllm.core.errors import DataError
from rayllm.core.faults import fault
from rayllm.core.progress import Step, Watch, unwatched
from rayllm.corpus.build.ingest import UnitCounts, ingest_unit
from rayllm.corpus.build.models import ModelsReport, make_model, models_wanted
from rayllm.corpus.build.notes import Finished, Outputs, once
from rayllm.corpus.build.plan import PartTally, Plan, write_plan
from rayllm.corpus.build.readings import Readings
from rayllm.corpus.build.recipe import Recipe
from rayllm.corpus.build.resolve import (
    NEAR,
    BandTask,
    NearResult,
    Tallies,
    exact_name,
    pair_bands,
    plan_bands,
    resolve_near,
    resolve_partition,
)
from rayllm.corpus.build.shards import Shard, ShardCounts, plan_shards, write_shard
from rayllm.corpus.card.content import MAX_MATCHES, Card, DomainCard, describe_sources
from rayllm.corpus.documents import Unit
from rayllm.corpus.files.tables import named_write_errors, write_checked
from rayllm.corpus.overlap.exact import partition_count
from rayllm.corpus.settings import BuildSettings
from rayllm.corpus.sources import Source, ValidationConfig, list_units

#: Applies a task to texts and yields what it returns, in order; tasks may run anywhere and at any time.
TaskMap = Callable[[Callable[[str], str], Sequence[str]], Iterable[str]]
#: What a task of a pass does with its item: write files through ``Outputs``, and return a JSON text.
Make = Callable[[dict[str, Any], Recipe, Outputs], str]


@dataclass
class _Job:
    """A preparation under way: what was asked for, how tasks are run, and what they have written so far."""

    validation: ValidationConfig
    recipe: Recipe
    units: Sequence[Unit]
    run: TaskMap
    watch: Watch
    written: set[str] = field(default_factory=set)


def build_corpus(
    sources: Mapping[str, list[Source]],
    validation: ValidationConfig,
    settings: BuildSettings,
    *,
    seed: int,
    output: str,
    scratch: str,
    run: TaskMap,
    watch: Watch = unwatched,
) -> dict[str, Any]:
    """Make a corpus, or go on with one that was stopped.

    Args:
        sources: Training sources of each domain.
        validation: Where validation documents come from.
        settings: How to cut and filter.
        seed: The run's seed: it decides what is held out, and what is generated.
        output: URI of the directory to fill; what is not of this corpus is removed from it.
        scratch: URI of a directory for the tasks' own files and notes. It is not removed: until the artifact is
            published, it holds what a later start would need.
        run: Runs tasks, here or elsewhere.
        watch: Is told how far each pass is.

    Returns:
        The counts of the artifact, see ``docs/design.md``.

    Raises:
        DataError: If a source has nothing to read or too many bad rows, or a domain is empty in the end.
        SetupError: If ``output`` cannot be written.
    """
    units = list_units(sources, "train", settings.unit_bytes)
    units += list_units(validation.sources, "validation", settings.unit_bytes, "validation.sources")
    recipe = Recipe(
        sources={"train": sources, "validation": validation.sources},
        settings=settings,
        seed=seed,
        output=output,
        scratch_root=scratch,
        partitions=partition_count(sum(unit.bytes for unit in units)),
    )
    job = _Job(validation, recipe, units, run, watch)
    names = sorted(sources)  # a corpus does not depend on the order in which a file names its domains
    card = Card(
        domains={name: DomainCard(sources=describe_sources(sources, validation, name, units)) for name in names}
    )
    card.models = _make_models(job)
    job.recipe = replace(job.recipe, models=card.models)
    readings = _read(job, card)
    readings.check_bad_rows(settings.max_bad_frac)
    plan = readings.plan(validation, settings.max_bytes_per_domain, job.recipe)
    tallies = _resolve(job, plan, card)
    _check_domains(job, plan, tallies, readings)
    _write_shards(job, plan, tallies, card)
    _finish(job, readings, card)
    return card.counts()


def _pass(
    job: _Job,
    name: str,
    make: Make,
    items: Sequence[Mapping[str, Any]],
    *,
    step: Callable[[int, Finished], Step],
    total: float,
    unit: str = "tasks",
) -> Iterator[str]:
    """Run the tasks of a pass and yield their results in order; afterwards the recipe knows the digest of them all."""
    texts = [json.dumps({"number": number, "item": item}) for number, item in enumerate(items)]
    results = map(Finished.model_validate_json, job.run(partial(_task, name=name, make=make, recipe=job.recipe), texts))
    digests: list[str] = []
    watched = job.watch(
        enumerate(results), f"prepare: {name}", total=total, unit=unit, step=lambda pair: step(pair[0], pair[1])
    )
    for number, finished in watched:
        digests.append(finished.digest)
        job.written.update(record.path for record in finished.files if record.path.startswith(job.recipe.output))
        yield finished.result
        fault(f"prepare.{name}.driver", number)
    job.recipe = job.recipe.following(content_hash({"before": job.recipe.digest, "tasks": digests}))


def _task(text: str, *, name: str, make: Make, recipe: Recipe) -> str:
    """One task of any pass, wherever it runs: done, or found done."""
    value = json.loads(text)
    number, item = value["number"], value["item"]
    note = recipe.scratch("notes", name, f"{number:06d}.json")
    key = {"recipe": recipe.digest, "item": item}
    return once(
        note, key, lambda outputs: make(item, recipe, outputs), point=f"prepare.{name}", number=number
    ).model_dump_json()


def _count_tasks(number: int, finished: Finished) -> Step:
    return Step(found=finished.found)


def _make_models(job: _Job) -> ModelsReport:
    """Before all passes: what the filters learn from, or look up in."""
    report = ModelsReport()
    wanted = models_wanted(job.recipe.settings)
    if wanted:
        items = [{"model": name} for name in wanted]
        for text in _pass(job, "models", _make_model, items, step=_count_tasks, total=len(items), unit="models"):
            report = report.plus(ModelsReport.model_validate_json(text))
    return report


def _make_model(item: dict[str, Any], recipe: Recipe, outputs: Outputs) -> str:
    return make_model(item["model"], recipe.settings, recipe.model(item["model"]), outputs).model_dump_json()


def _read(job: _Job, card: Card) -> Readings:
    """First pass."""
    readings = Readings(job.units, card.domains)
    known = all(unit.bytes for unit in job.units)
    weights = [unit.bytes if known else 1 for unit in job.units]

    def step(number: int, finished: Finished) -> Step:
        read = UnitCounts.model_validate_json(finished.result).read
        return Step(weights[number], documents=read.documents, bytes=read.bytes, found=finished.found)

    items = [{"index": index, "unit": unit.model_dump(mode="json")} for index, unit in enumerate(job.units)]
    unit = "bytes" if known else "units"
    for text in _pass(job, "reading", _read_unit, items, step=step, total=sum(weights), unit=unit):
        readings.add(UnitCounts.model_validate_json(text))
    return readings


def _read_unit(item: dict[str, Any], recipe: Recipe, outputs: Outputs) -> str:
    unit = Unit.model_validate(item["unit"])
    return ingest_unit(item["index"], unit, recipe, outputs).model_dump_json()


def _resolve(job: _Job, plan: Plan, card: Card) -> dict[int, PartTally]:
    """Second pass."""
    tallies = {index: PartTally() for index in range(len(plan.parts))}
    if not plan.parts:
        return tallies
    write_plan(plan, job.recipe)
    items: list[dict[str, Any]] = [{"partition": number} for number in range(job.recipe.partitions)]
    bands = _plan_bands(job, plan)
    items += [task.model_dump() for task in bands]
    for text in _pass(job, "duplicates", _find_duplicates, items, step=_count_tasks, total=len(items)):
        _add_tallies(tallies, Tallies.model_validate_json(text))
    if bands:
        (text,) = _pass(
            job, "clusters", _find_clusters, [{"tasks": items[job.recipe.partitions :]}], step=_count_tasks, total=1
        )
        card.near = NearResult.model_validate_json(text)
        _add_tallies(tallies, card.near.tallies)
    for index, part in enumerate(plan.parts):
        card.domains[part.domain].drop(tallies[index].dropped)
    return tallies


def _plan_bands(job: _Job, plan: Plan) -> list[BandTask]:
    near = job.recipe.settings.near_duplicates
    if near is None or not any(part.near for part in plan.parts):
        return []
    return plan_bands(near.bands, sum(unit.bytes for unit in job.units))


def _add_tallies(tallies: dict[int, PartTally], more: Tallies) -> None:
    for index, tally in more.parts.items():
        tallies[index] = tallies[index].plus(tally)


def _find_duplicates(item: dict[str, Any], recipe: Recipe, outputs: Outputs) -> str:
    if "partition" in item:
        return resolve_partition(item["partition"], recipe, outputs).model_dump_json()
    pair_bands(BandTask.model_validate(item), recipe, outputs)
    return Tallies().model_dump_json()


def _find_clusters(item: dict[str, Any], recipe: Recipe, outputs: Outputs) -> str:
    tasks = [BandTask.model_validate(task) for task in item["tasks"]]
    return resolve_near(tasks, recipe, outputs).model_dump_json()


def _check_domains(job: _Job, plan: Plan, tallies: Mapping[int, PartTally], readings: Readings) -> None:
    """Refuse a domain of which nothing is left."""
    documents = {(name, split): 0 for name in readings.cards for split in ("train", "validation")}
    for index, part in enumerate(plan.parts):
        for split, amount in tallies[index].kept.items():
            documents[part.domain, split] += amount.documents
    for name in readings.cards:
        if not documents[name, "train"]:
            raise DataError(
                "a domain has no training documents left",
                where=f"sources.{name}",
                why=readings.losses(name),
                fix="relax prepare.rules, correct the source, or give it more (a single document is held out)",
            )
        own = name in job.validation.sources
        if (own or job.validation.heldout_frac > 0) and not documents[name, "validation"]:
            raise DataError(
                "a domain has no validation documents left",
                where=f"validation.sources.{name}" if own else f"sources.{name}",
                why=readings.losses(name),
                fix="correct the validation source, or raise validation.heldout_frac or max_bytes_per_domain",
            )


def _write_shards(job: _Job, plan: Plan, tallies: Mapping[int, PartTally], card: Card) -> None:
    """Third pass."""
    shards = plan_shards(plan, tallies, job.recipe.settings.shard_bytes)
    lists = [exact_name(number) for number in range(job.recipe.partitions)] + [NEAR] * (card.near is not None)

    def step(_: int, finished: Finished) -> Step:
        total = ShardCounts.model_validate_json(finished.result).total
        return Step(documents=total.documents, bytes=total.bytes, found=finished.found)

    items = [{"shard": shard.model_dump(), "lists": lists} for shard in shards]
    results = _pass(job, "writing", _write_shard, items, step=step, total=len(items), unit="shards")
    for shard, text in zip(shards, results, strict=True):
        card.domains[shard.domain].add_shard(shard.split, ShardCounts.model_validate_json(text))


def _write_shard(item: dict[str, Any], recipe: Recipe, outputs: Outputs) -> str:
    return write_shard(Shard.model_validate(item["shard"]), item["lists"], recipe, outputs).model_dump_json()


def _finish(job: _Job, readings: Readings, card: Card) -> None:
    """Lists and cards; and what is in the directory but not of this corpus goes."""
    lists = {"quarantine.jsonl": readings.quarantine(job.recipe)}
    if job.recipe.settings.decontaminate is not None:
        lists["contamination.jsonl"] = readings.matches(job.recipe)
    for name, lines in lists.items():
        target = storage.join(job.recipe.output, name)
        with named_write_errors(target), storage.open_file(target, "wb") as file:
            file.writelines(lines)
        if name == "contamination.jsonl":
            card.matches = _first_lines(target, MAX_MATCHES)
    pages = card.pages()
    for name, page in pages.items():
        write_checked(storage.join(job.recipe.output, name), page.encode())
    own = {*job.written, *(storage.join(job.recipe.output, name) for name in (*lists, *pages))}
    for path in storage.list_files(job.recipe.output):
        if (uri := storage.join(job.recipe.output, path)) not in own:
            storage.remove(uri)


def _first_lines(uri: str, limit: int) -> list[dict[str, Any]]:
    with storage.open_file(uri) as file:
        return [json.loads(line) for line in itertools.islice(file, limit)]
