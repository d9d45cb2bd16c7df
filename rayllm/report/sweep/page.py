"""The page of a sweep: one HTML file that needs nothing but itself, with the verdict first."""

import shlex
from statistics import median
from typing import Any

from markupsafe import Markup

from rayllm.report.formats import change, count, duration, fixed, percent, significant
from rayllm.report.summary import Command, Figure
from rayllm.report.sweep import tables
from rayllm.report.sweep.figures import figures_of, label_of
from rayllm.report.sweep.records import SweepRecords
from rayllm.report.templating import embed_json, environment, source


def render_sweep(records: SweepRecords) -> str:
    """The page as one self-contained HTML file."""
    drawn = figures_of(records)
    return (
        environment(autoescape=True)
        .get_template("sweep.html.jinja")
        .render(
            records=records,
            verdict=records.verdict,
            figures=key_figures(records),
            commands=_commands(records),
            drawn=drawn,
            tables=_tables(records),
            css=source("report.css") + source("sweep.css"),
            script=source("numbers.js") + source("sweep.js"),
            data=Markup(embed_json(drawn)),
        )
    )


def key_figures(records: SweepRecords) -> list[Figure]:
    """The numbers at the head: the best, the noise floor, the gain over the baseline, what it took."""
    verdict = records.verdict
    best = verdict.contenders[0]
    baseline = next((one for one in verdict.contenders if one.baseline), None)
    spread = "" if best.low is None else f"± {significant(best.mean - best.low, 2)}, {best.seeds} seeds"
    found = [Figure(f"{label_of(records.objective)}, best", fixed(best.mean, 4), spread)]
    if verdict.floor is not None:
        found.append(Figure("noise floor", f"{verdict.floor:#.2g}", "leads below it are chance"))
    if baseline is not None and baseline is not best:
        clear = next((lead.clear for lead in verdict.leads if lead.over == baseline.group), False)
        detail = f"{baseline.baseline} {fixed(baseline.mean, 4)}"
        value = change(baseline.mean, best.mean)
        tone = "good" if clear else ""
        found.append(Figure("against the baseline", value, detail + ("" if clear else ", within noise"), tone))
    stopped = sum(one.status == "stopped" for one in records.results)
    details = [f"{stopped} stopped early"] if stopped else []
    if records.shares:
        details.append(f"each {percent(median(records.shares.values()), 0)} of a whole run")
    found.append(Figure("trials", str(len(records.results)), ", ".join(details)))
    device_s, tokens = sum(one.device_s for one in records.results), sum(one.tokens for one in records.results)
    found.append(Figure("device time", duration(device_s), f"{count(tokens)} tokens"))
    return found


def _tables(records: SweepRecords) -> dict[str, Any]:
    return {
        "contenders": tables.contenders_table(records),
        "changes": tables.changes_table(records),
        "trials": tables.trials_table(records),
        "importance": tables.importance_table(records),
        "cost": tables.cost_table(records),
    }


def _commands(records: SweepRecords) -> list[Command]:
    if not records.best_uri:
        return []
    return [Command("Train with the best settings", f"rayllm run {shlex.quote(records.best_uri)}")]
