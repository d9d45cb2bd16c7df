import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest
from simulated_sweep import trial
from sweep_records import law_surface, mixture_sweep, records_of

from rayllm.report.sweep.page import key_figures, render_sweep
from rayllm.tune.significance_config import SignificanceConfig


class Page(HTMLParser):
    """Attributes of every tag, and the texts within it."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data) -> None:
        self.texts.setdefault(self._open[-1] if self._open else "", []).append(data)

    @property
    def figures(self) -> list[str | None]:
        return [attributes.get("data-figure") for tag, attributes in self.tags if tag == "figure"]


@pytest.fixture(scope="module")
def records():
    return dataclasses.replace(mixture_sweep(), surface=law_surface())


@pytest.fixture(scope="module")
def html(records):
    return render_sweep(records)


def test_the_verdict_comes_first_and_every_figure_is_there(html, records):
    page = Page(html)
    assert page.texts["p"][1] == records.verdict.sentence
    assert page.figures == ["intervals", "curves", "parallel", "ternary"]


def test_the_page_loads_nothing(html):
    for tag, attributes in Page(html).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert not (attributes.get("href") or "#").startswith(("http", "//"))
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|@import|url\((?!#)", html)


def test_every_trial_has_a_row_that_the_figures_can_find(html, records):
    rows = [
        attributes["data-trial"] for tag, attributes in Page(html).tags if tag == "tr" and "data-trial" in attributes
    ]
    assert rows == [str(result.trial) for result in records.results]


def test_names_of_the_run_cannot_leave_their_place(records):
    evil = "</script><script>alert(1)</script>"
    results = [trial(0, {"a": evil}, 2.0), trial(1, {"a": "b"}, 1.0)]
    page = Page(render_sweep(dataclasses.replace(records, results=results, name=evil)))
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    data = json.loads(page.texts["script"][0])
    assert data["axes"][0]["ticks"][0][1] == evil


def test_a_sweep_of_one_trial_without_curves_has_a_page():
    result = trial(0, {}, 2.0, curve=[])
    page = Page(render_sweep(records_of([result], {}, SignificanceConfig(), seed=0)))
    assert page.figures == ["intervals"]


def test_the_head_says_best_floor_gain_and_cost(records):
    labels = [figure.label for figure in key_figures(records)]
    assert labels[1:] == ["noise floor", "against the baseline", "trials", "device time"]


def test_the_head_of_a_sweep_of_forks_says_what_a_trial_costs_of_a_run(records):
    shares = {0: 0.2, 1: 0.2, 2: 0.1}
    found = {figure.label: figure.detail for figure in key_figures(dataclasses.replace(records, shares=shares))}
    assert found["trials"].endswith("each 20\u00a0% of a whole run")
