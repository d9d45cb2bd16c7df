from pathlib import Path

import pytest
from pydantic import Field

from rayllm.core import storage
from rayllm.core.artifact import Artifact
from rayllm.core.config import ConfigModel
from rayllm.core.stage import Task, Work, run_task
from rayllm.pipelines import report


class Settings(ConfigModel):
    """Anything."""

    sources: dict[str, str] = Field({}, description="Anything.")


@pytest.fixture
def corpus(tmp_path: Path) -> Artifact:
    """A corpus artifact of which only the counts matter."""

    def prepare(work: Work) -> dict[str, object]:
        storage.write_text(work.path("card.json"), "{}")
        row = {"train": {"documents": 7, "bytes": 1_500}, "validation": {"documents": 1, "bytes": 90}, "dropped": {}}
        return {"domains": {"prose": row}}

    settings = Settings(sources={"prose": "/texts/*.txt"})
    return run_task(Task("prepare", prepare, settings), str(tmp_path / "data"))[0]


def make_report(corpus: Artifact, root: Path, **settings: object) -> tuple[Artifact, bool]:
    config = report.Config.model_validate({"name": "mine", "report": settings})
    return run_task(Task("report", report.run, config, {"prepare": corpus}, report.VERSION), str(root))


def test_the_stage_writes_one_page_in_two_forms(corpus: Artifact, tmp_path: Path) -> None:
    artifact, _ = make_report(corpus, tmp_path / "mine")
    html, markdown = (Path(artifact.file(f"report.{kind}")) for kind in ("html", "md"))
    assert "<h1>mine</h1>" in html.read_text()
    assert "| prose | 7 | 1.50\u00a0kB | 1 | 90\u00a0B |" in markdown.read_text()
    assert "  prose: /texts/*.txt\n" in markdown.read_text()
    assert artifact.counts == {"html_bytes": html.stat().st_size, "markdown_bytes": markdown.stat().st_size}


def test_the_same_records_give_the_same_page_and_are_not_rendered_twice(corpus: Artifact, tmp_path: Path) -> None:
    first, _ = make_report(corpus, tmp_path / "mine")
    again, found = make_report(corpus, tmp_path / "mine")
    other, _ = make_report(corpus, tmp_path / "elsewhere")
    assert found
    assert again.hash == first.hash
    assert storage.read_text(other.file("report.html")) == storage.read_text(first.file("report.html"))


def test_another_title_makes_another_page(corpus: Artifact, tmp_path: Path) -> None:
    artifact, _ = make_report(corpus, tmp_path / "mine", title="A title")
    assert "<h1>A title</h1>" in storage.read_text(artifact.file("report.html"))
    assert artifact.hash != make_report(corpus, tmp_path / "mine")[0].hash
