from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from rayllm.core.errors import SetupError
from rayllm.corpus.build.notes import Finished, Outputs, once

Run = Callable[..., Finished]


@pytest.fixture
def task(tmp_path: Path) -> Run:
    """A task that writes two files and returns its own count of runs."""
    runs: list[int] = []

    def make(outputs: Outputs) -> str:
        runs.append(1)
        outputs.data(str(tmp_path / "one.bin"), b"one")
        outputs.table(str(tmp_path / "two.parquet"), pa.table({"n": [1, 2]}))
        return str(len(runs))

    return lambda **key: once(str(tmp_path / "note.json"), key, make, point="test", number=0)


def test_a_finished_task_is_not_run_again(task: Run, tmp_path: Path) -> None:
    first = task(a=1)
    assert (first.result, first.found) == ("1", False)
    assert (Path(first.files[0].path).name, first.files[0].bytes) == ("one.bin", 3)
    again = task(a=1)
    assert (again.result, again.found) == ("1", True)
    assert again.digest == first.digest


def test_another_task_is_not_taken_for_it(task: Run) -> None:
    task(a=1)
    assert task(a=2).result == "2"
    assert task(a=1).result == "3"


@pytest.mark.parametrize("name", ["one.bin", "two.parquet"])
@pytest.mark.parametrize("damage", ["remove", "cut", "flip"])
def test_a_note_with_missing_or_damaged_files_is_ignored(task: Run, tmp_path: Path, name: str, damage: str) -> None:
    before = task(a=1)
    path = tmp_path / name
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[:-1])
    if damage == "flip":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    after = task(a=1)
    assert (after.result, after.found) == ("2", False)
    assert after.files == before.files
    assert path.read_bytes() == data


@pytest.mark.parametrize("text", [b"", b"{", b"{}", b'{"key": 1}'])
def test_a_torn_note_is_ignored(task: Run, tmp_path: Path, text: bytes) -> None:
    task(a=1)
    (tmp_path / "note.json").write_bytes(text)
    assert task(a=1).result == "2"
    assert task(a=1).found


def test_the_digest_tells_results_and_bytes_apart(tmp_path: Path) -> None:
    def digest(data: bytes, result: str) -> str:
        def make(outputs: Outputs) -> str:
            outputs.data(str(tmp_path / "file"), data)
            return result

        return once(
            str(tmp_path / "note.json"), {"data": data.hex(), "result": result}, make, point="t", number=0
        ).digest

    assert len({digest(b"a", "1"), digest(b"b", "1"), digest(b"a", "2")}) == 3


def test_no_note_is_left_when_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a directory is wanted")

    def make(outputs: Outputs) -> str:
        outputs.data(str(tmp_path / "taken" / "file"), b"x")
        return "1"

    with pytest.raises(SetupError, match="the corpus cannot be written"):
        once(str(tmp_path / "note.json"), {}, make, point="test", number=0)
    assert not (tmp_path / "note.json").exists()
