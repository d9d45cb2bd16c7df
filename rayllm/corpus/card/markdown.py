"""The data card as Markdown: tables, and examples in blocks that they cannot end."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rayllm.corpus.card.tally import SCORE_BINS

if TYPE_CHECKING:  # the card renders itself
    from rayllm.corpus.card.content import Card, DomainCard


def render_markdown(card: "Card") -> str:
    """The card as Markdown."""
    parts = ["# Data card", _overview(card)]
    for name, domain in card.domains.items():
        parts += [f"## {name}", *_domain(domain)]
    parts += [*_classifier(card), *_near(card), *_contamination(card)]
    return "\n\n".join(parts) + "\n"


def _overview(card: "Card") -> str:
    rows = []
    for name, domain in card.domains.items():
        for split in domain.splits:
            total, percentiles = domain.kept(split), domain.percentiles(split)
            rows.append([name, split, f"{total.documents:,}", f"{total.bytes:,}", *_numbers(percentiles.values())])
    names = (domain.percentiles(split) for domain in card.domains.values() for split in domain.splits)
    percents = [f"{name} bytes" for name in next(names, ())]
    return _table(["domain", "split", "documents", "bytes", *percents], rows)


def _domain(domain: "DomainCard") -> Iterator[str]:
    rows = [[source.split, source.kind, source.path, source.license or "not stated"] for source in domain.sources]
    yield _table(["for", "source", "path", "licence"], rows)
    yield domain.drop_table() + "."
    if domain.dropped:
        rows = [[reason, f"{found.documents:,}", f"{found.bytes:,}"] for reason, found in domain.dropped.items()]
        yield _table(["left out because", "documents", "bytes"], rows)
    if domain.bad_rows:
        rows = [[kind, f"{count:,}"] for kind, count in domain.bad_rows.items()]
        yield _table(["in quarantine because", "rows"], rows)
    if domain.languages:
        rows = [[name, f"{found.documents:,}", f"{found.bytes:,}"] for name, found in domain.languages.items()]
        yield _table(["language", "documents", "bytes"], rows)
    for split, counts in domain.splits.items():
        for example in counts.examples:
            yield f"Example ({split}):\n\n{_fence(example)}"
    for reason, examples in domain.examples.items():
        for example in examples:
            yield f"Left out ({reason}):\n\n{_fence(example)}"


def _classifier(card: "Card") -> Iterator[str]:
    report, scores = card.models.classifier, card.all_scores()
    if report is None:
        return
    yield "## Quality classifier"
    yield (
        f"Trained from {report.good:,} good and {report.bad:,} bad examples. On held-out examples its scores have an "
        f"AUC of {report.auc:.3f}, the length of the text alone {report.auc_of_length:.3f}; of the good ones "
        f"{report.good_kept:.1%} reach {report.min_score:g} and are kept, of the bad ones {report.bad_kept:.1%}."
    )
    rows = [
        [f"{place / SCORE_BINS:.2f} to {(place + 1) / SCORE_BINS:.2f}", f"{kept:,}", f"{dropped:,}"]
        for place, (kept, dropped) in enumerate(zip(scores.kept, scores.dropped, strict=True))
    ]
    if rows:
        yield _table(["score", "documents kept", "documents left out"], rows)


def _near(card: "Card") -> Iterator[str]:
    if card.near is None:
        return
    yield "## Near-duplicates"
    yield f"{card.near.clusters:,} clusters of documents that are nearly the same; one of each stays."
    for cluster in card.near.largest:
        texts = "\n\n".join(_fence(example) for example in cluster.examples)
        yield f"A cluster of {cluster.documents:,}; the first stays:\n\n{texts}"


def _contamination(card: "Card") -> Iterator[str]:
    index = card.models.contamination
    if index is None:
        return
    yield "## Evaluation items found in the text"
    rows = []
    for name, items in index.items.items():
        rows.append([name, f"{items:,}", f"{index.too_short.get(name, 0):,}", f"{card.documents_with(name):,}"])
    yield _table(["set", "items", "too short to look for", "documents that have one"], rows)
    for match in card.matches:
        yield (
            f"{_cell(match['set'])} {_cell(match['item'])}, {match['matched']} of {match['of']} runs of words, in "
            f"{_cell(match['source'])}:\n\n{_fence(match['text'])}\n\nThe item:\n\n{_fence(match['item_text'])}"
        )


def _numbers(values: Any) -> list[str]:
    return [f"{value:,}" for value in values]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_cell(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays within its cell of a table."""
    return re.sub(r"([\\|`*\[\]<>])", r"\\\1", re.sub(r"\s+", " ", text.strip()))


def _fence(text: str) -> str:
    """A block that the text cannot end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}text\n{text}\n{ticks}"
