"""What is known of a run outside its workers."""

import subprocess
import sys
from pathlib import Path

import pytest

from rayllm.core.errors import ArtifactDamaged
from rayllm.pipelines.train.job import ATTEMPT, read_attempt, write_attempt


def test_starts_are_counted_from_one(tmp_path: Path) -> None:
    assert read_attempt(str(tmp_path)) == 0
    write_attempt(str(tmp_path), 3)
    assert read_attempt(str(tmp_path)) == 3


@pytest.mark.parametrize("text", ["", '{"attempt": 2', "[]", '{"steps": 2}', '{"attempt": null}', '{"attempt": "two"}'])
def test_a_damaged_count_of_starts_is_named_with_the_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / ATTEMPT).write_text(text)
    with pytest.raises(ArtifactDamaged, match=r"counts the starts(.|\n)*attempt\.json(.|\n)*names of the checkpoints"):
        read_attempt(str(tmp_path))


def test_the_driver_needs_no_torch() -> None:
    code = "import sys, rayllm.pipelines.train.driver; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
