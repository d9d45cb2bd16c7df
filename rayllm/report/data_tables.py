"""Tables of what the model read: corpus, drops, tokens, mixture. ``None`` where the run left nothing to show."""

from collections.abc import Mapping
from typing import Any

from rayllm.report.collect import RunRecords
from rayllm.report.formats import change, count, data_size, fixed, percent
from rayllm.report.mixture import planned_tokens, realised_tokens
from rayllm.report.table import Cell, Column, Table


def corpus_table(records: RunRecords) -> Table | None:
    """Documents and bytes by domain and split, with what was dropped."""
    domains: Mapping[str, Any] = records.counts("prepare").get("domains", {})
    if not domains:
        return None
    total = sum(row.get("train", {}).get("bytes", 0) for row in domains.values())
    rows = []
    for index, (domain, row) in enumerate(domains.items()):
        train, validation = row.get("train", {}), row.get("validation", {})
        dropped, kept = sum(row.get("dropped", {}).values()), train.get("documents", 0) + validation.get("documents", 0)
        rows.append(
            (
                Cell(domain, domain=index),
                Cell(count(train.get("documents"))),
                Cell(data_size(train.get("bytes")), bar=train.get("bytes", 0) / total if total else None),
                Cell(count(validation.get("documents"))),
                Cell(data_size(validation.get("bytes"))),
                Cell(count(dropped)),
                Cell(percent(dropped / (dropped + kept) if dropped + kept else None)),
            )
        )
    columns = (
        Column("Domain", numeric=False),
        Column("documents", "Training"),
        Column("text", "Training"),
        Column("documents", "Validation"),
        Column("text", "Validation"),
        Column("documents", "Dropped"),
        Column("share", "Dropped"),
    )
    return Table("Corpus", columns, tuple(rows))


def drops_table(records: RunRecords) -> Table | None:
    """Dropped documents by rule and domain."""
    domains: Mapping[str, Any] = records.counts("prepare").get("domains", {})
    rules = sorted({rule for row in domains.values() for rule in row.get("dropped", {})})
    totals = {rule: sum(row.get("dropped", {}).get(rule, 0) for row in domains.values()) for rule in rules}
    shown = sorted((rule for rule in rules if totals[rule]), key=lambda rule: -totals[rule])
    if not shown:
        return None
    columns = (Column("Rule", numeric=False), *(Column(domain) for domain in domains), Column("All"))
    rows = tuple(
        (
            Cell(rule.replace("_", " ")),
            *(Cell(count(row.get("dropped", {}).get(rule, 0))) for row in domains.values()),
            Cell(count(totals[rule]), tone="strong", bar=totals[rule] / max(totals.values())),
        )
        for rule in shown
    )
    return Table("Dropped documents by rule", columns, rows)


def tokenizer_table(records: RunRecords) -> Table | None:
    """Packed tokens and compression by domain."""
    if records.packed is None:
        return None
    fertility: Mapping[str, Any] = records.counts("fit_tokenizer").get("domains", {})
    rows = []
    for index, domain in enumerate(records.domains):
        cells = [Cell(domain, domain=index)]
        for split in ("train", "validation"):
            shards = records.packed.splits.get(split, {}).get(domain, [])
            tokens, size = sum(shard.tokens for shard in shards), sum(shard.bytes for shard in shards)
            cells += [Cell(count(tokens)), Cell(fixed(size / tokens if tokens else None, 2))]
        cells.append(Cell(fixed(fertility.get(domain, {}).get("tokens_per_word"), 2)))
        rows.append(tuple(cells))
    columns = (
        Column("Domain", numeric=False),
        Column("tokens", "Training"),
        Column("bytes per token", "Training"),
        Column("tokens", "Validation"),
        Column("bytes per token", "Validation"),
        Column("Tokens per word"),
    )
    note = f"Vocabulary of {records.packed.vocab_size:,} tokens; SHA-256 {records.packed.tokenizer_sha256[:12]}."
    return Table("Tokenizer and packed data", columns, tuple(rows), note)


def conversations_table(records: RunRecords) -> Table | None:
    """What became of conversations, by domain and split: how many there are, and what was left out of them."""
    if records.packed is None:
        return None
    rows = []
    for index, domain in enumerate(records.domains):
        for split in ("train", "validation"):
            shards = records.packed.splits.get(split, {}).get(domain, [])
            found = [shard.conversations for shard in shards if shard.conversations]
            if not found:
                continue
            learnt, tokens = sum(one.learnt_tokens for one in found), sum(shard.tokens for shard in shards)
            reasons = sorted({reason for one in found for reason in one.dropped})
            dropped = [f"{reason} {count(sum(one.dropped.get(reason, 0) for one in found))}" for reason in reasons]
            rows.append(
                (
                    Cell(domain, domain=index),
                    Cell(split),
                    Cell(count(sum(one.kept for one in found))),
                    Cell(count(sum(one.truncated for one in found))),
                    Cell(", ".join(dropped) or "none"),
                    Cell(percent(learnt / tokens if tokens else None)),
                )
            )
    columns = (
        Column("Domain", numeric=False),
        Column("Split", numeric=False),
        Column("Conversations"),
        Column("Truncated"),
        Column("Left out", numeric=False),
        Column("Tokens learnt"),
    )
    return Table("Conversations", columns, tuple(rows)) if rows else None


def mixture_table(records: RunRecords) -> Table | None:
    """Tokens of each domain: realised against planned."""
    realised = realised_tokens(records)
    if not realised:
        return None
    planned, total = planned_tokens(records), sum(realised.values())
    planned_total = sum(planned.values())
    epochs = records.plan.epochs() if records.plan else {}
    rows = []
    for index, (domain, tokens) in enumerate(realised.items()):
        plan = planned.get(domain)
        rows.append(
            (
                Cell(domain, domain=index),
                Cell(percent(plan / planned_total if plan is not None and planned_total else None, 2)),
                Cell(percent(tokens / total, 2), bar=tokens / total),
                Cell(count(plan)),
                Cell(count(tokens)),
                Cell(change(plan, tokens)),
                Cell(fixed(epochs.get(domain), 2)),
            )
        )
    columns = (
        Column("Domain", numeric=False),
        Column("planned", "Share of tokens"),
        Column("realised", "Share of tokens"),
        Column("planned", "Tokens"),
        Column("realised", "Tokens"),
        Column("difference", "Tokens"),
        Column("Epochs planned"),
    )
    note = "Tokens that counted in the loss: padding is not among them, and of conversations only what is learnt is."
    note += " Planned: what the weights give a domain, times the share of its tokens that is learnt." if planned else ""
    return Table("Mixture", columns, tuple(rows), note)
