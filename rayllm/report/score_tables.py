"""Tables of what the model is worth: scores by domain, their history, the check on samples.

Every builder returns ``None`` where the run left nothing to show.
"""

from collections.abc import Mapping
from typing import Any

from rayllm.report.collect import RunRecords
from rayllm.report.formats import change, count, fixed, percent
from rayllm.report.table import Cell, Column, Table

#: Rows of the validation history, at most.
HISTORY_ROWS = 24


def validation_table(records: RunRecords) -> Table | None:
    """Every domain before and after training, with the bigram baseline."""
    after, before = records.scores_after, records.scores_before
    if not after:
        return None
    columns = [Column("Domain", numeric=False)]
    columns += [Column(label, "Bits per byte") for label in ("before", "after", "change", "bigram", "against it")]
    for group in ("Loss, nats per token", "Perplexity", "Surprise ratio"):
        columns += [Column("before", group), Column("after", group)]
    rows = []
    for index, (domain, row) in enumerate(after.items()):
        old, bits, bigram = before.get(domain, {}), row["bits_per_byte"], row.get("bigram_bits_per_byte")
        rows.append(
            (
                Cell(domain, domain=index),
                Cell(fixed(old.get("bits_per_byte"))),
                Cell(fixed(bits), tone="strong"),
                Cell(change(old.get("bits_per_byte"), bits), tone=better(old.get("bits_per_byte"), bits)),
                Cell(fixed(bigram)),
                Cell(change(bigram, bits), tone=better(bigram, bits)),
                *(
                    Cell(fixed(values.get(measure), digits))
                    for measure, digits in (("loss", 3), ("perplexity", 2), ("surprise_ratio", 2))
                    for values in (old, row)
                ),
            )
        )
    if len(after) > 1:
        rows.append(_mean_row(before, after))
    note = (
        "Lower is better. Bits per byte compare across tokenizers; perplexity and loss do not. Bigram: an interpolated "
        "bigram of the same training tokens, which the model should beat. Surprise ratio: a domain's bits per byte "
        "over the mean of all domains."
    )
    return Table("Validation by domain", tuple(columns), tuple(rows), note)


def _mean_row(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> tuple[Cell, ...]:
    old, new = mean_of(before, "bits_per_byte"), mean_of(after, "bits_per_byte")
    bigram = mean_of(after, "bigram_bits_per_byte")
    cells = [Cell("mean", tone="strong"), Cell(fixed(old)), Cell(fixed(new), tone="strong")]
    cells += [Cell(change(old, new), tone=better(old, new)), Cell(fixed(bigram))]
    cells += [Cell(change(bigram, new), tone=better(bigram, new))]
    cells += [Cell(fixed(mean_of(scores, "loss"))) for scores in (before, after)]
    return (*cells, *(Cell("") for _ in range(4)))


def mean_of(scores: Mapping[str, Mapping[str, Any]], measure: str) -> float | None:
    """Mean of a measure over domains; None unless every domain has it."""
    values = [row.get(measure) for row in scores.values()]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def better(before: float | None, after: float | None) -> str:
    """The tone of a change of what should fall; none where there is no change."""
    if before is None or after is None or before == after:
        return ""
    return "good" if after < before else "bad"


def history_table(records: RunRecords) -> Table | None:
    """Bits per byte at every validation of the training, thinned to a few rows."""
    history = records.metrics.validation
    if not history:
        return None
    stride = -(-len(history) // HISTORY_ROWS)
    domains = list(records.scores_after) or records.domains
    columns = [Column("Step"), Column("Tokens"), *(Column(domain) for domain in domains), Column("Mean")]
    shown = [record for i, record in enumerate(history) if (len(history) - 1 - i) % stride == 0 or i == 0]
    rows = [
        (
            Cell(f"{record['step']:,}"),
            Cell(count(record.get("tokens"))),
            *(Cell(fixed(record.get(f"bits_per_byte/{domain}"))) for domain in domains),
            Cell(fixed(record.get("mean_bits_per_byte")), tone="strong"),
        )
        for record in shown
    ]
    return Table("Validation during training, bits per byte", tuple(columns), tuple(rows))


def preferences_table(records: RunRecords) -> Table | None:
    """How held-out pairs of replies are told apart, before and after training; nothing where none were compared."""
    history = records.metrics.validation
    domains = [name.partition("/")[2] for name in (history[-1] if history else ()) if name.startswith("accuracy/")]
    if not domains:
        return None
    first, last = history[0], history[-1]
    measures = (("preference_loss", "Loss", 4), ("margin", "Margin", 3))
    shares = (("accuracy", "Accuracy"), ("likelier", "Chosen is likelier"))
    columns = [Column("Domain", numeric=False)]
    columns += [Column(when, label) for _, label, _ in measures for when in ("first", "last")]
    columns += [Column(when, label) for _, label in shares for when in ("first", "last")]
    rows = tuple(
        (
            Cell(domain, domain=index),
            *(Cell(fixed(at.get(f"{name}/{domain}"), digits)) for name, _, digits in measures for at in (first, last)),
            *(Cell(percent(at.get(f"{name}/{domain}"))) for name, _ in shares for at in (first, last)),
        )
        for index, domain in enumerate(domains)
    )
    note = (
        "Held-out pairs. A reply's reward is beta times the change of its log-probability against the reference; "
        "accuracy is how often the chosen reply has the higher one, a tie being a half."
    )
    return Table("Preferences", tuple(columns), rows, note)


def identification_table(records: RunRecords) -> Table | None:
    """How many samples look like the domain of their prompt."""
    found = (records.scores or {}).get("identification", {})
    if not found.get("total"):
        return None
    domains = list(records.scores_after)
    rows = [
        (
            Cell(domain, domain=domains.index(domain) if domain in domains else None),
            Cell(f"{row['correct']} of {row['total']}", bar=row["correct"] / row["total"]),
        )
        for domain, row in found["by_domain"].items()
    ]
    rows.append((Cell("all", tone="strong"), Cell(f"{found['correct']} of {found['total']}", bar=found["accuracy"])))
    reference = found.get("reference_accuracy")
    note = "A classifier of character n-grams, which knows nothing of the model, judges each continuation alone."
    if reference is not None:
        note += f" On the documents' own continuations it is right for {percent(reference, 0)}."
    columns = (Column("Prompt from", numeric=False), Column("continued in its domain"))
    return Table("Do samples stay in their domain?", columns, tuple(rows), note)
