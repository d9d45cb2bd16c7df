"""The same functions on a local disk, in memory and on an object store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayllm.core import storage
from rayllm.core.errors import SetupError


@pytest.fixture(params=["local", "file", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/dir"
    return {"local": str(tmp_path / "dir"), "file": f"file://{tmp_path}/dir", "memory": f"memory://{tmp_path}"}[
        request.param
    ]


def test_what_is_written_is_there_until_it_is_removed(root: str, tmp_path: Path) -> None:
    storage.make_dirs(root)
    assert storage.list_files(root) == []
    deep = storage.join(root, "a", "b.bin")
    storage.write_bytes(deep, b"\x00\xff")
    storage.write_text(storage.join(root, "text"), "ä")
    (tmp_path / "source").write_bytes(b"123")
    storage.upload(tmp_path / "source", storage.join(root, "up", "c"))
    assert storage.list_files(root) == ["a/b.bin", "text", "up/c"]
    assert storage.read_bytes(deep) == b"\x00\xff"
    assert storage.read_text(storage.join(root, "text")) == "ä"
    assert storage.size(storage.join(root, "up", "c")) == 3
    with storage.open_file(deep) as file:
        assert file.read(1) == b"\x00"
    storage.write_bytes(deep, b"new")
    assert storage.read_bytes(deep) == b"new"
    storage.remove(storage.join(root, "a"))
    assert storage.list_files(root) == ["text", "up/c"]
    assert not storage.exists(deep)
    storage.remove(root)
    storage.remove(root)
    assert storage.list_files(root) == []


def test_missing_files_are_not_found(root: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(root, "missing"))


def test_listings_see_what_other_processes_wrote(bucket: str) -> None:
    import boto3

    storage.write_text(f"{bucket}/dir/mine", "x")
    assert storage.list_files(f"{bucket}/dir") == ["mine"]
    assert not storage.exists(f"{bucket}/dir/theirs")
    boto3.client("s3").put_object(Bucket=bucket.removeprefix("s3://"), Key="dir/theirs", Body=b"yy")
    assert storage.list_files(f"{bucket}/dir") == ["mine", "theirs"]
    assert storage.exists(f"{bucket}/dir/theirs")
    assert storage.size(f"{bucket}/dir/theirs") == 2


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("runs", True),
        ("/a/b", True),
        ("file:///a", True),
        ("C:\\runs", True),
        ("s3://b/k", False),
        ("memory://x", False),
    ],
)
def test_local_uris_are_told_from_remote_ones(uri: str, local: bool) -> None:
    assert storage.is_local(uri) is local


def test_absolute_fixes_local_paths_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("runs") == str(tmp_path / "runs")
    assert storage.absolute("file:///a/b") == "/a/b"
    assert storage.absolute("s3://bucket/runs/") == "s3://bucket/runs"
    with pytest.raises(ValueError, match="not a local path"):
        storage.local_path("s3://bucket/x")


def test_unknown_schemes_say_what_to_install() -> None:
    with pytest.raises(SetupError) as caught:
        storage.read_bytes("gopher://host/x")
    assert caught.value.exit_code == 3
    assert "pip install" in caught.value.fix


def test_join_keeps_roots_and_drops_doubled_slashes() -> None:
    assert storage.join("s3://b/k/", "/a/", "b") == "s3://b/k/a/b"
    assert storage.join("/", "a") == "//a" or storage.join("/", "a") == "/a"
    assert storage.join("runs") == "runs"


FULL_DISK = """
import resource, sys
from pathlib import Path
from rayllm.core import storage
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (
    lambda: storage.write_bytes(sys.argv[1], b"n" * 5000),
    lambda: storage.upload(Path(sys.argv[2]), sys.argv[1]),
):
    try:
        write()
    except OSError:
        continue
    sys.exit("the write did not fail")
"""


def test_a_write_that_fails_leaves_the_old_file_and_no_scraps(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"b" * 5000)
    target = tmp_path / "out" / "file"
    storage.write_bytes(str(target), b"old")
    subprocess.run([sys.executable, "-c", FULL_DISK, target, tmp_path / "big"], check=True)
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == ["file"]
