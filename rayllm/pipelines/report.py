"""All artifacts of a run to one page: ``report.html``, which needs nothing but itself, and ``report.md``."""

from typing import Any

from pydantic import Field

from rayllm.core import storage
from rayllm.core.stage import Work
from rayllm.pipelines.frame import Frame
from rayllm.report.config import ReportConfig

VERSION = 1


class Config(Frame):
    """What the stage reads of a run file."""

    report: ReportConfig = Field(default=ReportConfig(), description="What the page shows.")


def run(work: Work) -> dict[str, Any]:
    """Collect the records of all stages and write the page.

    Raises:
        ArtifactDamaged: If a record that is shown differs from its manifest.
    """
    from rayllm.report.collect import collect
    from rayllm.report.render import render_html, render_markdown

    config: Config = work.config
    records = collect(config.name, work.inputs, sweep=config.report.sweep)
    html, markdown = render_html(records, config.report), render_markdown(records, config.report)
    storage.write_text(work.path("report.html"), html)
    storage.write_text(work.path("report.md"), markdown)
    return {"html_bytes": len(html.encode()), "markdown_bytes": len(markdown.encode())}
