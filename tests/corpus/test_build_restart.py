"""A preparation that is killed at any moment goes on where it was: the same bytes, and nothing finished is repeated."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from rayllm.core.errors import DataError
from rayllm.corpus.build.notes import Finished

Prepare = Callable[..., dict[str, Any]]
Jsonl = Callable[..., str]

#: Tasks of each pass of the preparation below.
TASKS = {"models": 1, "reading": 6, "duplicates": 2, "clusters": 1, "writing": 4}
SCRIPT = """
import json, sys
sys.path.insert(0, sys.argv[1])
from conftest import build
build(sys.argv[2], **json.loads(sys.argv[3]))
"""


class Counting:
    """Runs tasks in a loop and counts them by pass: those that were run, and those that were found finished."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.found: Counter[str] = Counter()

    def __call__(self, task: Any, items: Sequence[str]) -> Iterator[str]:
        for item in items:
            text = task(item)
            counts = self.found if Finished.model_validate_json(text).found else self.made
            counts[task.keywords["name"]] += 1
            yield text


@pytest.fixture
def job(jsonl: Jsonl) -> dict[str, Any]:
    """Sources and settings of a preparation with every pass, several tasks in each."""
    random = Random(1)
    words = [f"word{number}" for number in range(300)]
    texts = [" ".join(random.choice(words) for _ in range(60)) for _ in range(60)]
    copies = [text.replace("word1", "word2", 1) + " end" for text in texts[:20]]
    quiz = jsonl("quiz.jsonl", [{"text": texts[7]}])
    rows = [{"text": text} for text in [*texts, *copies, *texts[30:35], "short"]] + [{"text": 3}]
    return {
        "sources": {"web": {"kind": "jsonl", "path": jsonl("web.jsonl", rows)}},
        "unit_bytes": 8000,
        "shard_bytes": 12_000,
        "keep_dropped": True,
        "near_duplicates": {},
        "decontaminate": {"sets": {"quiz": {"kind": "jsonl", "path": quiz}}},
        "rules": {"prose": {"min_words": 5}},
        "validation": {"heldout_frac": 0.2},
    }


def files(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()}


def killed(output: Path, job: dict[str, Any], fault: str) -> None:
    """Run a preparation in a process of its own that kills itself at a point."""
    arguments = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(output), json.dumps(job)]
    environment = os.environ | {"RAYLLM_ALLOW_FAULTS": "1", "RAYLLM_FAULT": f"{fault}=kill"}
    assert subprocess.run(arguments, env=environment, timeout=100, check=False).returncode == -signal.SIGKILL


@pytest.mark.fault(
    "P7", "a preparation killed at each of its points", "only what was not finished is done again; the same bytes"
)
@pytest.mark.parametrize(
    ("fault", "finished"),
    [
        ("prepare.models.written", {}),
        ("prepare.reading.start:2", {"models": 1, "reading": 2}),
        ("prepare.reading.written:4", {"models": 1, "reading": 4}),
        ("prepare.reading.driver:5", {"models": 1, "reading": 6}),
        ("prepare.duplicates.written:1", {"models": 1, "reading": 6, "duplicates": 1}),
        ("prepare.clusters.written", {"models": 1, "reading": 6, "duplicates": 2}),
        ("prepare.writing.written:2", {"models": 1, "reading": 6, "duplicates": 2, "clusters": 1, "writing": 2}),
        ("prepare.writing.driver:3", TASKS),
    ],
)
def test_a_preparation_that_was_killed_repeats_only_what_was_not_finished(
    tmp_path: Path, prepare: Prepare, job: dict[str, Any], fault: str, finished: dict[str, int]
) -> None:
    straight = Counting()
    counts = prepare(tmp_path / "straight", run=straight, **job)
    assert straight.made == TASKS
    assert counts["web"]["dropped"].keys() >= {"near_duplicate", "duplicate", "too_short", "contaminated"}
    killed(tmp_path / "out", job, fault)
    again = Counting()
    assert prepare(tmp_path / "out", run=again, **job) == counts
    assert again.found == finished
    assert again.made == Counter(TASKS) - Counter(finished)
    assert files(tmp_path / "out") == files(tmp_path / "straight")


@pytest.mark.parametrize("damage", ["remove", "flip", "cut"])
@pytest.mark.parametrize(
    ("pattern", "made"),
    [
        ("out.scratch/documents/000001-0000.parquet", {"reading": 1}),
        ("out.scratch/bands/000003-0000.parquet", {"reading": 1}),
        ("out.scratch/pairs/*.parquet", {"duplicates": 1}),
        ("out.scratch/notes/clusters/000000.json", {"clusters": 1}),
        ("out/train/web/00000.parquet", {"writing": 1}),
        ("out/dropped/web/rules-*.parquet", {"reading": 1}),
    ],
)
def test_what_was_damaged_since_is_made_again(
    tmp_path: Path, prepare: Prepare, job: dict[str, Any], pattern: str, made: dict[str, int], damage: str
) -> None:
    prepare(tmp_path / "out", **job)
    whole = files(tmp_path / "out")
    path = sorted(tmp_path.glob(pattern))[0]
    data = path.read_bytes()
    path.unlink()
    if damage != "remove":
        path.write_bytes(data[:-1] + (bytes([data[-1] ^ 1]) if damage == "flip" else b""))
    again = Counting()
    prepare(tmp_path / "out", run=again, **job)
    assert again.made == made
    assert files(tmp_path / "out") == whole


def test_other_settings_never_take_up_what_these_have_left(
    tmp_path: Path, prepare: Prepare, job: dict[str, Any]
) -> None:
    prepare(tmp_path / "out", **job)
    again = Counting()
    prepare(tmp_path / "out", run=again, **job | {"rules": {"prose": {"min_words": 6}}})
    assert not again.found.keys() - {"models"}


def test_after_an_error_that_stops_it_the_work_before_is_found(
    tmp_path: Path, prepare: Prepare, job: dict[str, Any]
) -> None:
    (tmp_path / "web.jsonl").write_text("{broken\n" * 30 + (tmp_path / "web.jsonl").read_text())
    for _ in range(2):
        again = Counting()
        with pytest.raises(DataError, match="cannot be used"):
            prepare(tmp_path / "out", run=again, **job)
    assert again.found["reading"] > 0
    assert not again.made
