import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from rayllm.core.artifact import Artifact
from rayllm.report.collect import RunRecords, collect
from rayllm.report.config import ReportConfig
from rayllm.report.render import render_html, render_markdown
from rayllm.report.templating import embed_json, escape_cell, fence, squeeze

Artifacts = dict[str, Artifact]
VOID = {"meta", "br", "hr", "img", "input", "link", "col"}


class Page(HTMLParser):
    """Reads a page: refuses tags that do not nest, keeps attributes and texts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    @property
    def charts(self) -> dict:
        return json.loads(next(text for text in self.texts["script"] if text.startswith("{")))


@pytest.fixture(scope="module")
def records(fake_run: Artifacts) -> RunRecords:
    return collect("quickstart", fake_run)


@pytest.fixture(scope="module")
def html(records: RunRecords) -> str:
    return render_html(records, ReportConfig())


def test_the_page_is_whole_and_names_every_domain(html: str) -> None:
    page = Page(html)
    heads = [text.strip() for text in page.texts["th"]]
    assert {"english", "math", "code"} <= set(heads)
    assert page.texts["h1"] == ["quickstart"]
    assert len(html.encode()) < 2_000_000


def test_the_page_loads_nothing(html: str) -> None:
    for tag, attributes in Page(html).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert not (attributes.get("href") or "#").startswith(("http", "//"))
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|@import|url\(", html)


def test_every_figure_has_its_curves(html: str) -> None:
    page = Page(html)
    figures = [attributes["data-chart"] for tag, attributes in page.tags if tag == "figure"]
    assert figures == ["validation", "surprise", "loss", "lr", "grad_norm", "update_ratio", "throughput", "mixture"]
    assert set(figures) == set(page.charts)
    assert all(chart["y"] and chart["x"] for chart in page.charts.values())


def test_drawn_numbers_agree_with_the_records(html: str, records: RunRecords) -> None:
    drawn = {series["name"]: series["points"] for series in Page(html).charts["validation"]["series"]}
    for domain in ("english", "math", "code"):
        logged = [[r["tokens"], r[f"bits_per_byte/{domain}"]] for r in records.metrics.validation]
        assert drawn[domain] == [pytest.approx(point, rel=1e-5) for point in logged]


def test_samples_are_shown_as_text_whatever_they_hold(records: RunRecords) -> None:
    evil = "</pre><script>alert(1)</script><!-- & \u2028"
    scores = json.loads(json.dumps(records.scores))
    scores["samples"][0] |= {"text": evil, "prompt": evil}
    changed = dataclasses.replace(records, scores=scores, name="</script><b>")
    page = Page(render_html(changed, ReportConfig()))
    assert evil in page.texts["span"]
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert page.texts["h1"] == ["</script><b>"]


def test_a_domain_name_cannot_end_the_script() -> None:
    assert embed_json({"a": "</script>\u2028"}) == '{"a":"\\u003c/script>\\u2028"}'
    with pytest.raises(ValueError, match="not JSON compliant"):
        embed_json({"a": float("nan")})


@pytest.mark.parametrize("missing", ["prepare", "fit_tokenizer", "pack", "evaluate"])
def test_a_run_that_lacks_a_stage_still_has_its_page(missing: str, fake_run: Artifacts) -> None:
    records = collect("quickstart", {verb: artifact for verb, artifact in fake_run.items() if verb != missing})
    assert "Training loss" in render_html(records, ReportConfig())
    assert "## The run" in render_markdown(records, ReportConfig())


@pytest.mark.parametrize("verb", ["prepare", "train"])
def test_a_run_that_has_only_begun_has_a_page(verb: str, fake_run: Artifacts) -> None:
    records = collect("quickstart", {verb: fake_run[verb]})
    Page(render_html(records, ReportConfig()))
    assert render_markdown(records, ReportConfig()).startswith("# quickstart\n")


def test_a_run_of_nothing_has_a_page() -> None:
    Page(render_html(RunRecords(name="empty"), ReportConfig()))
    assert render_markdown(RunRecords(name="empty"), ReportConfig())


def test_one_domain_needs_no_comparison_of_domains(make_run: Callable[..., Artifacts]) -> None:
    page = Page(render_html(collect("solo", make_run("english")), ReportConfig()))
    assert "surprise" not in page.charts
    assert [series["name"] for series in page.charts["validation"]["series"]] == ["english"]


def test_the_title_and_the_number_of_samples_follow_the_config(records: RunRecords) -> None:
    page = Page(render_html(records, ReportConfig(title="My model", samples_per_domain=1)))
    assert page.texts["h1"] == ["My model"]
    final = [attributes for tag, attributes in page.tags if tag == "article"]
    in_training = len(records.metrics.samples)
    assert len(final) == 3 + in_training


def test_markdown_tables_have_as_many_cells_in_every_row(records: RunRecords) -> None:
    text = render_markdown(records, ReportConfig())
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) >= 9
    for table in tables:
        lines = table.strip().split("\n")
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(widths) == 1, table
        assert re.fullmatch(r"\|( (---|---:) \|)+", lines[1]), lines[1]
        assert len(lines) > 2


def test_markdown_holds_the_same_scores(records: RunRecords) -> None:
    text = render_markdown(records, ReportConfig())
    assert records.scores is not None
    for row in records.scores["domains"].values():
        assert f"**{row['bits_per_byte']:.3f}**" in text


def test_markdown_cells_and_blocks_cannot_be_left() -> None:
    assert escape_cell("a|b\n`c` *d* <e>") == r"a\|b \`c\` \*d\* \<e\>"
    assert fence("x\n````\ny").startswith("`````text\n")
    assert squeeze("a\n\n\n\nb\n```text\n1\n\n\n\n2\n```\n") == "a\n\nb\n```text\n1\n\n\n\n2\n```\n"
