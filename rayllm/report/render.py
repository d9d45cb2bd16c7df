"""Records to pages: one HTML file that needs nothing but itself, and the same in Markdown.

The page holds its style, its script and its numbers; it loads nothing, from no network. All text of the run (samples,
names, messages) is escaped.
"""

from collections.abc import Sequence
from typing import Any

import yaml
from markupsafe import Markup

from rayllm.report import data_tables, run_tables, score_tables, summary
from rayllm.report.collect import RunRecords
from rayllm.report.config import ReportConfig
from rayllm.report.plots import all_charts
from rayllm.report.templating import embed_json, environment, source, squeeze

TABLES = {
    "validation": score_tables.validation_table,
    "history": score_tables.history_table,
    "preferences": score_tables.preferences_table,
    "identification": score_tables.identification_table,
    "mixture": data_tables.mixture_table,
    "corpus": data_tables.corpus_table,
    "drops": data_tables.drops_table,
    "tokenizer": data_tables.tokenizer_table,
    "conversations": data_tables.conversations_table,
    "time": run_tables.time_table,
    "events": run_tables.events_table,
    "trials": run_tables.trials_table,
}


def render_html(records: RunRecords, config: ReportConfig) -> str:
    """The page as one self-contained HTML file."""
    page = _page(records, config)
    charts = Markup(embed_json({key: chart.to_json() for key, chart in page["charts"].items()}))
    return (
        environment(autoescape=True)
        .get_template("report.html.jinja")
        .render(
            **page,
            css=source("report.css"),
            script=source("numbers.js") + source("charts.js"),
            charts_json=charts,
        )
    )


def render_markdown(records: RunRecords, config: ReportConfig) -> str:
    """The page as Markdown: tables and samples, no curves."""
    template = environment(autoescape=False).get_template("report.md.jinja")
    return squeeze(template.render(**_page(records, config)))


def _page(records: RunRecords, config: ReportConfig) -> dict[str, Any]:
    samples = (records.scores or {}).get("samples") or []
    return {
        "title": config.title or records.name,
        "records": records,
        "lead": summary.lead(records),
        "figures": summary.figures(records),
        "data_sentence": summary.data_sentence(records),
        "commands": summary.next_commands(records),
        "created": _created(records),
        "charts": all_charts(records, config),
        "tables": {name: build(records) for name, build in TABLES.items()},
        "samples": group_samples(samples, config.samples_per_domain, records.domains),
        "progress": _progress(records),
        "documents": {
            name: _yaml(value) for name, value in (("Configuration", records.config), ("Model", records.model)) if value
        },
        "settings": {
            caption: table
            for caption, values in (("Environment", records.environment), ("Versions", _versions(records)))
            if (table := run_tables.settings_table(caption, values))
        },
    }


def group_samples(samples: Sequence[dict[str, Any]], limit: int, domains: Sequence[str]) -> dict[str, list[Any]]:
    """Final samples by domain, at most ``limit`` of each, in the order of the domains."""
    names = sorted({sample["domain"] for sample in samples}, key=lambda n: domains.index(n) if n in domains else 99)
    grouped = {name: [sample for sample in samples if sample["domain"] == name][:limit] for name in names}
    return {name: found for name, found in grouped.items() if found}


def _progress(records: RunRecords) -> list[tuple[int, list[dict[str, Any]]]]:
    """Samples written during training, by step."""
    steps = sorted({sample["step"] for sample in records.metrics.samples})
    return [(step, [s for s in records.metrics.samples if s["step"] == step]) for step in steps]


def _created(records: RunRecords) -> str:
    return max((artifact.manifest.created for artifact in records.artifacts.values()), default="")


def _yaml(value: dict[str, Any]) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _versions(records: RunRecords) -> dict[str, str]:
    """Versions of the last stage, unless the environment of the training tells them."""
    artifacts = list(records.artifacts.values())
    return artifacts[-1].manifest.versions if artifacts and "versions" not in records.environment else {}
