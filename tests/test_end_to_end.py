"""One tiny run from raw JSONL to the report, as a user starts it; then what a second start does and does not do."""

import json
import re
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from tiny_run import write_run

from rayllm.cli import main
from rayllm.core.artifact import Artifact, read_artifact
from rayllm.core.checkpoint import list_checkpoints
from rayllm.pipelines import ray_runtime

pytestmark = pytest.mark.ray

VERBS = ["prepare", "fit_tokenizer", "pack", "train", "evaluate", "report"]


@dataclass(frozen=True)
class Finished:
    """A run that is done: its file, its storage, and how the command ended."""

    file: Path
    storage: Path
    exit_code: int
    printed: str

    def artifacts(self, verb: str) -> list[Artifact]:
        return [read_artifact(str(path.parent)) for path in sorted(self.storage.glob(f"*/{verb}-*/manifest.json"))]

    def artifact(self, verb: str) -> Artifact:
        (found,) = self.artifacts(verb)
        return found

    def files(self) -> dict[str, tuple[int, int]]:
        """Every file of the storage: when it was written, and its size."""
        found = {path: path.stat() for path in self.storage.rglob("*") if path.is_file()}
        return {str(path.relative_to(self.storage)): (stat.st_mtime_ns, stat.st_size) for path, stat in found.items()}


@pytest.fixture(autouse=True)
def _ray_stays(ray_session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command ends its Ray when it is done; the session's is to stay for the other tests."""
    monkeypatch.setattr(ray_runtime, "shutdown", lambda: None)


@pytest.fixture(scope="module")
def finished(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("run")
    file = write_run(root, str(root / "runs"))
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(ray_runtime, "shutdown", lambda: None)
        exit_code = main(["run", str(file)])
    return Finished(file, root / "runs", exit_code, printed.getvalue())


def test_raw_files_become_six_whole_artifacts(finished: Finished) -> None:
    assert finished.exit_code == 0
    for verb in VERBS:
        finished.artifact(verb).verify(deep=True)
    scratch = [path for path in finished.files() if Path(path).name.startswith(".") or ".partial" in path]
    assert scratch == []


def test_scores_stand_in_the_report_and_on_the_console(finished: Finished) -> None:
    scores = json.loads(Path(finished.artifact("evaluate").file("scores.json")).read_text())
    page = Path(finished.artifact("report").file("report.html")).read_text()
    for domain in ("code", "math"):
        row = next(line for line in finished.printed.splitlines() if line.startswith(domain))
        after, before = (f"{part[domain]['bits_per_byte']:.3f}" for part in (scores["domains"], scores["before"]))
        assert f"{before} →  {after}" in row
        assert after in page
    assert scores["domains"]["math"]["bits_per_byte"] < scores["before"]["math"]["bits_per_byte"]
    printed = re.search(r"^report: (\S+)$", finished.printed, re.MULTILINE)
    assert printed is not None
    assert Path(printed[1]).read_text() == page
    assert re.search(r"rayllm sample \S+/checkpoints/step-\d{8}-a1 ", finished.printed)


def test_a_second_call_skips_every_stage_and_writes_nothing(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    before, start = finished.files(), time.monotonic()
    assert main(["run", str(finished.file)]) == 0
    assert time.monotonic() - start < 3
    assert finished.files() == before
    assert capsys.readouterr().out == finished.printed


def test_a_changed_source_makes_another_corpus_beside_the_first(finished: Finished) -> None:
    first = finished.artifact("prepare")
    source = finished.file.parent / "raw" / "math.jsonl"
    original = source.read_text()
    source.write_text(original + json.dumps({"text": "What is one and one? It is two.\n"}) + "\n")
    try:
        assert main(["prepare", str(finished.file)]) == 0
        (other,) = [made for made in finished.artifacts("prepare") if made.hash != first.hash]
        assert _documents(other, "math") == _documents(first, "math") + 1
        assert _documents(other, "code") == _documents(first, "code")
        first.verify(deep=True)
    finally:
        source.write_text(original)


def _documents(corpus: Artifact, domain: str) -> int:
    counts = corpus.counts["domains"][domain]
    return sum(counts[split]["documents"] for split in ("train", "validation"))


def test_a_training_forced_again_has_the_same_weights(finished: Finished) -> None:
    first = finished.artifact("train")
    weights, losses = _weights(first), _losses(first)
    assert main(["train", str(finished.file), "--force"]) == 0
    second = finished.artifact("train")
    assert second.manifest.created >= first.manifest.created
    assert second.manifest.wall_s != first.manifest.wall_s
    assert second.counts["attempts"] == 1
    assert _losses(second) == losses
    assert _weights(second) == weights
    second.verify(deep=True)


def _weights(train: Artifact) -> bytes:
    return Path(list_checkpoints(train.uri + "/checkpoints")[-1].uri, "model.safetensors").read_bytes()


def _losses(train: Artifact) -> dict[int, float]:
    records = map(json.loads, Path(train.file("metrics.jsonl")).read_text().splitlines())
    return {record["step"]: record["loss"] for record in records if record["kind"] == "train"}
