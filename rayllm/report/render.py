"""Records to pages: one HTML file that needs nothing but itself, and the same in Markdown.

The page holds its style, its script and its numbers; it loads nothing, from no network. All text of the run (samples,
names, messages) is escaped.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from rayllm.report import data_tables, run_tables, score_tables, summary
from rayllm.report.collect import RunRecords
from rayllm.report.config import ReportConfig
from rayllm.report.formats import count, percent
from rayllm.report.plots import all_charts

#: Colours of the page's style; domains beyond take them again.
NUM_COLORS = 8
TABLES = {
    "validation": score_tables.validation_table,
    "history": score_tables.history_table,
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
    environment = _environment(autoescape=True)
    environment.filters["color"] = lambda index: index % NUM_COLORS
    page = _page(records, config)
    source = {name: Markup(_source(environment, name)) for name in ("report.css", "charts.js")}
    charts = Markup(embed_json({key: chart.to_json() for key, chart in page["charts"].items()}))
    return environment.get_template("report.html.jinja").render(
        **page, css=source["report.css"], script=source["charts.js"], charts_json=charts
    )


def render_markdown(records: RunRecords, config: ReportConfig) -> str:
    """The page as Markdown: tables and samples, no curves."""
    environment = _environment(autoescape=False)
    environment.filters |= {"cell": escape_cell, "fence": fence}
    text = environment.get_template("report.md.jinja").render(**_page(records, config))
    return squeeze(text)


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


def embed_json(value: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def escape_cell(text: str) -> str:
    """Text that stays within its cell of a Markdown table and means nothing in Markdown."""
    return re.sub(r"([\\|`*_\[\]<>])", r"\\\1", re.sub(r"[ \t\r\n]+", " ", text.strip()))


def fence(text: str) -> str:
    """A Markdown code block that the text cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}text\n{text}\n{ticks}"


def squeeze(text: str) -> str:
    """At most one blank line at a time, but for code blocks, which stay as they are."""
    blocks_or_gaps = re.compile(r"^(`{3,})text\n.*?^\1$|\n{3,}", re.MULTILINE | re.DOTALL)
    return blocks_or_gaps.sub(lambda match: match[0] if match[1] else "\n\n", text).strip() + "\n"


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _environment(*, autoescape: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rayllm.report"),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"count": count, "percent": percent}
    return environment
