"""What is known of a run outside its workers."""

import subprocess
import sys
from pathlib import Path

import pytest

from rayllm.core.errors import ArtifactDamaged
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.job import ATTEMPT, read_attempt, with_absolute_paths, write_attempt


def test_starts_are_counted_from_one(tmp_path: Path) -> None:
    assert read_attempt(str(tmp_path)) == 0
    write_attempt(str(tmp_path), 3)
    assert read_attempt(str(tmp_path)) == 3


@pytest.mark.parametrize("text", ["", '{"attempt": 2', "[]", '{"steps": 2}', '{"attempt": null}', '{"attempt": "two"}'])
def test_a_damaged_count_of_starts_is_named_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / ATTEMPT).write_text(text)
    with pytest.raises(ArtifactDamaged, match=r"counts the starts(.|\n)*attempt\.json(.|\n)*names of the checkpoints"):
        read_attempt(str(tmp_path))


def test_workers_find_other_runs_wherever_they_are_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    limits = {"seq_len": 32, "global_batch_tokens": 64, "max_steps": 2}
    adaptive = {"adaptive": {"reference": "runs/c"}}
    begun = Config(name="t", train={**limits, "init": "from_checkpoint:runs/a"}, mixture=adaptive)
    forked = Config(name="t", train={**limits, "fork": {"source": "runs/b", "step": 4}})
    remote = Config(name="t", train={**limits, "init": "from_hf:s3://bucket/a"})
    assert with_absolute_paths(begun).train.init == f"from_checkpoint:{tmp_path}/runs/a"
    moved = with_absolute_paths(begun).mixture.adaptive
    assert moved
    assert moved.reference == f"{tmp_path}/runs/c"
    fork = with_absolute_paths(forked).train.fork
    assert fork
    assert (fork.source, fork.step) == (f"{tmp_path}/runs/b", 4)
    assert with_absolute_paths(remote) == remote


def test_the_driver_needs_no_torch() -> None:
    code = "import sys, rayllm.pipelines.train.driver; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
