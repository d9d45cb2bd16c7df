"""Tables of a sweep: contenders, domains gained and forgotten, every trial, what mattered, what it cost."""

from collections.abc import Sequence

from pydantic import JsonValue

from rayllm.report.formats import MISSING, count, duration, fixed, percent, significant
from rayllm.report.sweep.axes import axes_of, flat
from rayllm.report.sweep.figures import label_of
from rayllm.report.sweep.importance import Importances, importances
from rayllm.report.sweep.records import SweepRecords
from rayllm.report.table import Cell, Column, Table
from rayllm.tune.forgetting import in_words, most_forgotten
from rayllm.tune.results import TrialResult
from rayllm.tune.tables import SHOWN, show, shown
from rayllm.tune.verdict import Contender, Verdict

_BITS = "bits_per_byte/"


def contenders_table(records: SweepRecords) -> Table:
    """What was compared: mean over seeds, its interval, and the lead of the best."""
    verdict = records.verdict
    leads = {lead.over: lead for lead in verdict.leads}
    columns = (
        Column("Settings", numeric=False),
        Column("Seeds"),
        Column(label_of(records.objective)),
        Column("Interval"),
        Column("Behind the best"),
        Column("Noise"),
        Column("", numeric=False),
    )
    rows = []
    for one in verdict.contenders:
        lead = leads.get(one.group)
        behind = (fixed(lead.lead, 4), fixed(lead.margin, 4)) if lead else (MISSING, MISSING)
        word = _word(verdict, one, lead.clear if lead else None)
        rows.append(
            (
                Cell(_name(one)),
                Cell(str(one.seeds)),
                Cell(fixed(one.mean, 4), tone="strong" if one.group == verdict.best else ""),
                Cell(_interval(one)),
                *(Cell(text) for text in behind),
                Cell(word, tone="good" if word == "winner" else ""),
            )
        )
    return Table("Contenders", columns, tuple(rows), _estimator(verdict))


def _name(one: Contender) -> str:
    return f"trial {one.trial}" + (f", baseline {one.baseline}" if one.baseline else "")


def _word(verdict: Verdict, one: Contender, clear: bool | None) -> str:
    if one.failed:
        return f"{one.failed} failed"
    if one.group == verdict.best:
        return {"winner": "winner", "unknown": "lowest"}.get(
            verdict.kind, "tied" if verdict.kind == "tied" else "first"
        )
    return "" if clear is None else "behind" if clear else "tied"


def _interval(one: Contender) -> str:
    return MISSING if one.low is None or one.high is None else f"{fixed(one.low, 4)} to {fixed(one.high, 4)}"


def _estimator(verdict: Verdict) -> str:
    if verdict.sd is None:
        return "No noise floor is known."
    return (
        f"Standard deviation over seeds {significant(verdict.sd, 2)}, pooled over the replicates "
        f"({verdict.degrees} degrees of freedom). A lead counts when it is greater than its noise, which chance "
        f"exceeds in {percent(verdict.level, 0)} of sweeps."
    )


def changes_table(records: SweepRecords) -> Table | None:
    """Each domain of the best against the first baseline: better, worse, or no more than noise."""
    changes = records.verdict.changes
    if not changes:
        return None
    columns = (
        Column("Domain", numeric=False),
        Column("Best"),
        Column("Baseline"),
        Column("Change"),
        Column("Noise"),
        Column("", numeric=False),
    )
    rows = []
    for one in changes:
        change = one.best - one.baseline
        better = -change > one.margin
        word, tone = ("worse", "bad") if one.worse else ("better", "good") if better else ("within noise", "")
        numbers = (fixed(one.best, 4), fixed(one.baseline, 4), _signed(change), fixed(one.margin, 4))
        rows.append((Cell(one.metric.removeprefix(_BITS)), *map(Cell, numbers), Cell(word, tone=tone)))
    return Table(
        "Domains, against the baseline", columns, tuple(rows), "Bits per byte, means over the seeds that count."
    )


def _signed(value: float) -> str:
    return ("+" if round(value, 4) > 0 else "") + fixed(value, 4)


def trials_table(records: SweepRecords) -> Table:
    """Every trial: how it ended, the objective, every domain, its settings, what it cost."""
    paths = list(dict.fromkeys(path for result in records.results for path in flat(result.settings)))
    labels = {axis.path: axis.label for axis in axes_of(records.results)}
    paths = [path for path in paths if path in labels]
    domains = shown(records.results)
    columns = [
        Column("Trial"),
        Column("", numeric=False),
        Column(label_of(records.objective)),
        *(Column(name.partition("/")[2], SHOWN[name.partition("/")[0]]) for name in domains),
        *([Column("Forgotten")] if records.begun is not None else []),
        *(Column(labels[path], "Settings") for path in paths),
        Column("Seed", "Cost and start"),
        Column("Tokens", "Cost and start"),
        *([Column("Of a run", "Cost and start")] if records.shares else []),
        Column("Time", "Cost and start"),
        Column("Device time", "Cost and start"),
        Column("Start", "Cost and start"),
        *([Column("Price", "Cost and start")] if records.per_hour is not None else []),
    ]
    rows = tuple(_trial_row(records, result, paths, domains) for result in records.results)
    note = "A setting without a value is as in the run file. What was stopped early stands at its last validation."
    if records.begun is not None:
        note += f" Forgotten: the domain whose bits per byte rose most since step {records.begun:,}, and by how much."
    return Table("Trials", tuple(columns), rows, note)


def _trial_row(
    records: SweepRecords, result: TrialResult, paths: Sequence[str], domains: Sequence[str]
) -> tuple[Cell, ...]:
    value, settings = records.value(result), flat(result.settings)
    baseline = records.baselines.get(result.group, "")
    ended = "" if result.status == "finished" else result.status
    return (
        Cell(str(result.trial), order=result.trial),
        Cell(ended or baseline, tone="bad" if result.status == "failed" else ""),
        Cell(fixed(value, 4), tone="strong", order=value),
        *(Cell(fixed(result.metrics.get(name)), order=result.metrics.get(name)) for name in domains),
        *([_forgotten(result, records.begun)] if records.begun is not None else []),
        *(_setting(settings.get(path)) for path in paths),
        Cell(str(result.seed), order=result.seed),
        Cell(count(result.tokens), order=result.tokens),
        *([_share(records.shares.get(result.trial))] if records.shares else []),
        Cell(duration(result.wall_s), order=result.wall_s),
        Cell(duration(result.device_s), order=result.device_s),
        Cell(duration(result.start_s), order=result.start_s),
        *_price([result], records.per_hour),
    )


def _forgotten(result: TrialResult, begun: int) -> Cell:
    most = most_forgotten(result, begun)
    return Cell(in_words(most) or MISSING, order=most and most[1])


def _share(share: float | None) -> Cell:
    return Cell(MISSING) if share is None else Cell(percent(share, 0), order=share)


def _price(results: Sequence[TrialResult], per_hour: float | None, tone: str = "") -> tuple[Cell, ...]:
    """What some trials cost; nothing where no price is known."""
    if per_hour is None:
        return ()
    price = sum(one.price(per_hour) for one in results)
    return (Cell(fixed(price, 2), tone=tone, order=price),)


def _setting(value: JsonValue) -> Cell:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Cell(significant(float(value)), order=float(value))
    return Cell(MISSING if value is None else show(value))


def importance_table(records: SweepRecords) -> Table | None:
    """Which settings mattered, with how far that can be trusted; ``None`` if too few trials ended."""
    found = importances(records)
    if found is None:
        return None
    columns = (Column("Setting", numeric=False), Column("Share"), Column("Rank correlation"))
    rows = tuple(
        (
            Cell(one.axis.label),
            Cell(percent(one.share, 0), bar=one.share),
            Cell(fixed(one.correlation, 2)),
        )
        for one in found.settings
    )
    return Table("What mattered", columns, rows, _caveat(found))


def _caveat(found: Importances) -> str:
    explained = max(0.0, found.explained)
    trust = "so take the shares as a hint" if explained >= 0.5 else "so the shares say little"
    return (
        f"Share: how much worse a random forest predicts unseen trials when a setting is shuffled. Over "
        f"{found.trials} trials it explains {percent(explained, 0)} of the order, {trust}. Rank correlation below 0: "
        "more of it goes with a better objective. Neither is proof of a cause."
    )


def cost_table(records: SweepRecords) -> Table:
    """What the trials cost, by how they ended, and in all."""
    columns = (
        Column("Trials that", numeric=False),
        Column("Number"),
        Column("Tokens"),
        Column("Time, summed"),
        Column("Device time"),
        Column("Median start"),
        Column("Starts, summed"),
        *([Column("Price")] if records.per_hour is not None else []),
    )
    groups = {
        "finished": records.finished,
        "were stopped early": [one for one in records.results if one.status == "stopped"],
        "failed": [one for one in records.results if one.status == "failed"],
    }
    rows = [_cost_row(name, results, records) for name, results in groups.items() if results]
    rows.append(_cost_row("all", records.results, records, tone="strong"))
    note = (
        "Device time: seconds times GPUs held, or CPUs where there was no GPU. Start: from a trial's turn to its first "
        "step; summed with the starts of trials that waited at a rung, or were taken up again, and went on."
    )
    return Table("Cost", columns, tuple(rows), note)


def _cost_row(name: str, results: Sequence[TrialResult], records: SweepRecords, tone: str = "") -> tuple[Cell, ...]:
    device_s, whole = sum(one.device_s for one in results), sum(one.device_s for one in records.results)
    starts = sorted(one.start_s for one in results)
    return (
        Cell(name, tone=tone),
        Cell(str(len(results)), tone=tone),
        Cell(count(sum(one.tokens for one in results)), tone=tone),
        Cell(duration(sum(one.wall_s for one in results)), tone=tone),
        Cell(duration(device_s), tone=tone, bar=device_s / whole if whole and not tone else None),
        Cell(duration(starts[len(starts) // 2]), tone=tone),
        Cell(duration(sum(one.starts_s for one in results)), tone=tone),
        *_price(results, records.per_hour, tone),
    )
