"""The data card: what a corpus holds, where it comes from, what was left out and why, with examples to judge by.

Here is what it says, and the counts of the manifest; ``card_markdown`` and ``card_html`` are the pages for people.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

from pydantic import BaseModel

from rayllm.corpus.build.ingest import UnitCounts
from rayllm.corpus.build.models import ModelsReport
from rayllm.corpus.build.resolve import NearResult
from rayllm.corpus.build.shards import ShardCounts
from rayllm.corpus.card.histogram import octaves, quantile
from rayllm.corpus.card.html import render_html
from rayllm.corpus.card.markdown import render_markdown
from rayllm.corpus.card.tally import Amount, Amounts, Examples, Scores, add_amounts, add_examples
from rayllm.corpus.documents import Split, Unit
from rayllm.corpus.files.paths import without_secrets
from rayllm.corpus.sources import Source, ValidationConfig

PERCENTILES = (5, 25, 50, 75, 95)
#: Evaluation items found in documents that the pages show; ``contamination.jsonl`` has all.
MAX_MATCHES = 20


class SourceLine(BaseModel):
    """One source of a domain: what it is for, its kind and path, and what is said of its licence."""

    split: Split
    kind: str
    path: str
    license: str = ""


def describe_sources(
    sources: Mapping[str, Sequence[Source]], validation: ValidationConfig, domain: str, units: Iterable[Unit] = ()
) -> list[SourceLine]:
    """The sources of a domain; of conversations, with the layout that their units were found to have."""
    layouts = {(unit.split, unit.source): unit.layout for unit in units if unit.domain == domain and unit.layout}
    groups: dict[Split, Sequence[Source]] = {
        "train": sources[domain],
        "validation": validation.sources.get(domain, []),
    }
    return [
        SourceLine(
            split=split,
            kind=f"{source.kind} ({layout})" if (layout := layouts.get((split, number))) else source.kind,
            path=", ".join(map(without_secrets, getattr(source, "path", []))),
            license=source.terms,
        )
        for split, group in groups.items()
        for number, source in enumerate(group)
    ]


class DomainCard(BaseModel):
    """One domain of the corpus.

    Attributes:
        sources: Its sources.
        read: Documents that could be read, their texts cleaned.
        splits: What each split holds.
        dropped: What was left out, by reason.
        examples: The beginnings of documents that were left out, by reason.
        languages: Documents whose language was looked at, by language.
        scores: Documents that the quality classifier has scored, by score.
        contaminated: Documents by the evaluation set that an item of theirs is from.
        bad_rows: Rows in quarantine, by kind.
    """

    sources: list[SourceLine]
    read: Amount = Amount()
    splits: dict[Split, ShardCounts] = {}
    dropped: Amounts = {}
    examples: Examples = {}
    languages: Amounts = {}
    scores: Scores = Scores()
    contaminated: dict[str, int] = {}
    bad_rows: dict[str, int] = {}

    def add_unit(self, counts: UnitCounts) -> None:
        """Add what the first pass says of a unit."""
        self.read = self.read.plus(counts.read)
        self.drop(counts.dropped)
        self.examples = add_examples(self.examples, counts.examples)
        self.languages = add_amounts(self.languages, counts.languages)
        self.scores = self.scores.plus(counts.scores)
        self.contaminated = _sorted(Counter(self.contaminated) + Counter(counts.contaminated))
        self.bad_rows = _sorted(Counter(self.bad_rows) + Counter(counts.bad))

    def add_shard(self, split: Split, counts: ShardCounts) -> None:
        """Add what a shard holds."""
        self.splits[split] = self.splits.get(split, ShardCounts()).plus(counts)
        self.examples = add_examples(self.examples, counts.dropped_examples)

    def drop(self, amounts: Amounts) -> None:
        """Add documents that were left out."""
        self.dropped = add_amounts(self.dropped, amounts)

    def kept(self, split: Split) -> Amount:
        """What a split holds."""
        return self.splits.get(split, ShardCounts()).total

    def counts(self) -> dict[str, Any]:
        """The counts of the artifact's manifest."""
        splits: tuple[Split, ...] = ("train", "validation")
        return {
            **{split: self.kept(split).model_dump() for split in splits},
            "dropped": {reason: amount.documents for reason, amount in self.dropped.items()},
            "quarantined": self.bad_rows,
            **(
                {"languages": {name: found.documents for name, found in self.languages.items()}}
                if self.languages
                else {}
            ),
        }

    def drop_table(self) -> str:
        """What was read and why it was left out, in one line."""
        counts = {**{reason: amount.documents for reason, amount in self.dropped.items()}, **self.bad_rows}
        reasons = [f"{count:,} {name}" for name, count in counts.items()]
        return f"{self.read.documents:,} documents read; left out: {', '.join(reasons) or 'none'}"

    def percentiles(self, split: Split) -> dict[str, int]:
        """Percentiles of the documents' bytes."""
        lengths = self.splits[split].lengths
        return {f"p{percent}": round(quantile(lengths, percent / 100)) for percent in PERCENTILES}

    def lengths(self, split: Split) -> list[tuple[float, int]]:
        """Documents by powers of two of their bytes, see ``histogram.octaves``."""
        return octaves(self.splits[split].lengths)


class Card(BaseModel):
    """The whole corpus.

    Attributes:
        domains: Its domains.
        models: What the filters learned from or looked up in.
        near: Clusters of near-duplicates; None where they were not looked for.
        matches: The first evaluation items that were found: lines of ``contamination.jsonl``.
    """

    domains: dict[str, DomainCard]
    models: ModelsReport = ModelsReport()
    near: NearResult | None = None
    matches: list[dict[str, Any]] = []

    def counts(self) -> dict[str, Any]:
        """The counts of the artifact's manifest; what was not asked for is left out."""
        counts: dict[str, Any] = {"domains": {name: card.counts() for name, card in self.domains.items()}}
        if self.near is not None:
            counts["near_duplicate_clusters"] = self.near.clusters
        if self.models.classifier is not None:
            counts["classifier"] = self.models.classifier.counts()
        if self.models.contamination is not None:
            counts["contaminated"] = {name: self.documents_with(name) for name in self.models.contamination.items}
        return counts

    def documents_with(self, evaluation_set: str) -> int:
        """How many documents have an item of an evaluation set."""
        return sum(card.contaminated.get(evaluation_set, 0) for card in self.domains.values())

    def all_scores(self) -> Scores:
        """Scores of the documents of all domains."""
        return reduce(Scores.plus, (card.scores for card in self.domains.values()), Scores())

    def pages(self) -> dict[str, str]:
        """The files of the card: names and texts."""
        return {
            "card.json": json.dumps(self._json(), indent=1) + "\n",
            "data_card.md": render_markdown(self),
            "data_card.html": render_html(self),
        }

    def _json(self) -> dict[str, Any]:
        domains = {
            name: {
                **card.counts(),
                "sources": [source.model_dump() for source in card.sources],
                "read": card.read.documents,
                "read_bytes": card.read.bytes,
                "dropped_bytes": {reason: amount.bytes for reason, amount in card.dropped.items()},
                "dropped_examples": card.examples,
                "scores": card.scores.model_dump(),
                "contaminated": card.contaminated,
                "length_bytes": {split: card.percentiles(split) for split in card.splits},
                "length_histogram": {split: card.lengths(split) for split in card.splits},
                "examples": {split: counts.examples for split, counts in card.splits.items()},
            }
            for name, card in self.domains.items()
        }
        near = None if self.near is None else self.near.model_dump(include={"clusters", "largest"})
        return {"domains": domains, "models": self.models.model_dump(), "near_duplicates": near}


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    """Largest first, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
