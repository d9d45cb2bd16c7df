import os
from pathlib import Path

import fsspec
import pytest

from rayllm.core.errors import ConfigError, DataError
from rayllm.corpus.files.paths import excluded, expand_variables, find_files, find_tree, without_secrets


def test_variables_come_from_the_environment_or_their_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLLM_T", "/x")
    assert expand_variables("${RAYLLM_T}/a${RAYLLM_NONE:-b}", "s") == "/x/ab"
    with pytest.raises(ConfigError, match=r"RAYLLM_NONE is not set[\s\S]*sources\.a"):
        expand_variables("${RAYLLM_NONE}/a", "sources.a")


def test_globs_are_sorted_and_relative_paths_keep_their_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "c.md"):
        Path("d").mkdir(exist_ok=True)
        Path("d", name).write_text("xx")
    found = find_files("d/*.txt", "s")
    assert [(file.label, file.bytes) for file in found] == [("d/a.txt", 2), ("d/b.txt", 2)]
    assert all(os.path.isabs(file.uri) for file in found)
    assert [file.label for file in find_files(str(tmp_path / "d/a.txt"), "s")] == [str(tmp_path / "d/a.txt")]


def test_remote_uris_are_listed_by_fsspec() -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/paths-test/a.txt", b"xyz")
    (file,) = find_files("memory://paths-test/*.txt", "s")
    assert file.uri == file.label == "memory:///paths-test/a.txt" or file.uri == "memory://paths-test/a.txt"
    assert file.bytes == 3


@pytest.mark.parametrize(
    ("pattern", "message"), [("none.txt", "no such file"), ("*.none", "no file matches"), (".", "directory")]
)
def test_nothing_to_read_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rf"{message}[\s\S]*sources\.web"):
        find_files(pattern, "sources.web")


def test_trees_give_relative_paths_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.py").write_text("1")
    assert [relative for _, relative in find_tree(str(tmp_path), "s")] == ["a/x.py"]
    with pytest.raises(DataError, match="no such directory"):
        find_tree(str(tmp_path / "b"), "s")


def test_exclusion_is_by_any_part_or_by_the_whole_path() -> None:
    assert excluded("a/tests/b.py", ["tests"])
    assert excluded("a/b.min.js", ["*.min.*"])
    assert not excluded("a/latest/b.py", ["test"])
    assert excluded("a/b/c.py", ["a/*.py"])
    assert not excluded("b/a/c.py", ["a/*.py"])


@pytest.mark.parametrize(
    ("path", "written"),
    [
        ("https://me:pw@host.org/a/b.jsonl?X-Signature=abc#top", "https://host.org/a/b.jsonl"),
        ("s3://key:secret@bucket/a/part-?.parquet", "s3://bucket/a/part-?.parquet"),
        ("hf://datasets/a/b/*.parquet", "hf://datasets/a/b/*.parquet"),
        ("data/part-?.jsonl", "data/part-?.jsonl"),
        ("${ROOT:-data}/me@home/a.txt", "${ROOT:-data}/me@home/a.txt"),
    ],
)
def test_paths_are_written_down_without_secrets(path: str, written: str) -> None:
    assert without_secrets(path) == written


def test_links_are_followed_to_files_and_those_that_lead_nowhere_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/abc").write_text("xyz")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.txt").symlink_to(tmp_path / "blobs/abc")
    (tree / "gone.txt").symlink_to(tmp_path / "blobs/none")
    (tree / "folder.txt").symlink_to(tmp_path / "blobs")
    assert [(Path(file.uri).name, file.bytes) for file in find_files(f"{tree}/*.txt", "s")] == [("a.txt", 3)]
    assert [relative for _, relative in find_tree(str(tree), "s")] == ["a.txt"]
