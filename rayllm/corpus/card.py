"""The data card: what a corpus holds and what was left out, for people (Markdown) and programs (JSON)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from rayllm.corpus.documents import Split
from rayllm.corpus.histogram import quantile
from rayllm.corpus.shards import ShardCounts

PERCENTILES = (5, 25, 50, 75, 95)


class DomainCard(BaseModel):
    """One domain of the corpus.

    Attributes:
        sources: Kind and path of each of its sources.
        read: Documents that could be read.
        splits: What each split holds.
        dropped: Documents left out, by reason.
        bad_rows: Rows in quarantine, by kind.
    """

    sources: list[str]
    read: int = 0
    splits: dict[Split, ShardCounts] = {}
    dropped: dict[str, int] = {}
    bad_rows: dict[str, int] = {}

    def drop(self, reasons: Mapping[str, int]) -> None:
        """Add documents that were left out."""
        self.dropped = _sorted(Counter(self.dropped) + Counter(reasons))

    def quarantine(self, kinds: Mapping[str, int]) -> None:
        """Add bad rows."""
        self.bad_rows = _sorted(Counter(self.bad_rows) + Counter(kinds))

    def counts(self) -> dict[str, Any]:
        """The counts of the artifact's manifest."""
        empty = ShardCounts(documents=0, bytes=0, lengths={})
        splits: tuple[Split, ...] = ("train", "validation")
        totals = {split: self.splits.get(split, empty) for split in splits}
        return {
            **{split: {"documents": total.documents, "bytes": total.bytes} for split, total in totals.items()},
            "dropped": self.dropped,
            "quarantined": self.bad_rows,
        }

    def drop_table(self) -> str:
        """What was read and why it was left out, in one line."""
        reasons = [f"{count:,} {name}" for name, count in {**self.dropped, **self.bad_rows}.items()]
        return f"{self.read:,} documents read; left out: {', '.join(reasons) or 'none'}"


def card_json(domains: Mapping[str, DomainCard]) -> dict[str, Any]:
    """The card as JSON: counts, percentiles of document bytes, examples."""
    return {
        "domains": {
            name: {
                "sources": card.sources,
                "read": card.read,
                **card.counts(),
                "length_bytes": {split: _percentiles(total) for split, total in card.splits.items()},
                "examples": {split: total.examples for split, total in card.splits.items()},
            }
            for name, card in domains.items()
        }
    }


def card_markdown(domains: Mapping[str, DomainCard]) -> str:
    """The card as Markdown."""
    rows = [
        [name, split, f"{total.documents:,}", f"{total.bytes:,}", *map("{:,}".format, _percentiles(total).values())]
        for name, card in domains.items()
        for split, total in card.splits.items()
    ]
    header = ["domain", "split", "documents", "bytes", *(f"p{percent} bytes" for percent in PERCENTILES)]
    parts = ["# Data card", _table(header, rows), *(_section(name, card) for name, card in domains.items())]
    return "\n\n".join(parts) + "\n"


def _section(name: str, card: DomainCard) -> str:
    lines = [f"## {name}", "Sources: " + "; ".join(card.sources), card.drop_table() + "."]
    if card.dropped:
        lines.append(_table(["left out because", "documents"], [[k, f"{v:,}"] for k, v in card.dropped.items()]))
    if card.bad_rows:
        lines.append(_table(["in quarantine because", "rows"], [[k, f"{v:,}"] for k, v in card.bad_rows.items()]))
    for split, total in card.splits.items():
        for example in total.examples:
            quoted = "\n".join(f"> {line}".rstrip() for line in example.split("\n"))
            lines.append(f"Example ({split}):\n\n{quoted}")
    return "\n\n".join(lines)


def _percentiles(total: ShardCounts) -> dict[str, int]:
    return {f"p{percent}": round(quantile(total.lengths, percent / 100)) for percent in PERCENTILES}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    """Largest first, equal ones by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
