from pathlib import Path

import pytest

from rayllm.core.errors import DataError
from rayllm.corpus.fingerprint import files_digest
from rayllm.corpus.sources import JsonlSource, SyntheticMathSource


def digest(path: Path) -> str:
    return files_digest([JsonlSource(path=[str(path / "*.jsonl")])], "sources.a")


def test_the_same_files_give_the_same_digest(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    assert digest(tmp_path) == digest(tmp_path) != ""


@pytest.mark.parametrize("change", ["edit", "append", "new file"])
def test_changed_files_give_another_digest(tmp_path: Path, change: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    before = digest(tmp_path)
    if change == "edit":
        (tmp_path / "a.jsonl").write_text('{"text": "two"}\n')
    elif change == "append":
        (tmp_path / "a.jsonl").open("a").write('{"text": "two"}\n')
    else:
        (tmp_path / "b.jsonl").write_text('{"text": "two"}\n')
    assert digest(tmp_path) != before


def test_an_edit_at_the_end_of_a_long_file_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n' * 20_000 + '{"text": "a"}\n')
    before = digest(tmp_path)
    path.write_text('{"text": "x"}\n' * 20_000 + '{"text": "b"}\n')
    assert digest(tmp_path) != before


def test_generated_sources_have_none() -> None:
    assert files_digest([SyntheticMathSource()], "sources.math") == ""


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        digest(tmp_path)
