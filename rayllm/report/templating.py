"""How pages are made: the templates' environment, numbers within HTML, text that stays text in Markdown."""

import json
import re
from typing import Any

import jinja2
from markupsafe import Markup

from rayllm.report.formats import count, percent

#: Colours of the page's style; domains beyond take them again.
NUM_COLORS = 8


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


def source(name: str) -> Markup:
    """A style or script of the pages, as it is."""
    loader = environment(autoescape=True).loader
    assert loader is not None
    return Markup(loader.get_source(environment(autoescape=True), name)[0])


def environment(*, autoescape: bool) -> jinja2.Environment:
    """The environment of all templates: an unknown name is an error, and for HTML every text is escaped."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("rayllm.report"),
        autoescape=autoescape,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"count": count, "percent": percent, "color": lambda index: index % NUM_COLORS}
    made.filters |= {"cell": escape_cell, "fence": fence}
    return made
