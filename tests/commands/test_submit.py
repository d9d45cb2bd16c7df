"""Submitting: what is packed, where the token comes from, and how fast a wrong address is refused."""

import http.server
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayllm.commands.submit import MAX_PACKAGE_BYTES, on_cluster, pack, select_files
from rayllm.core.errors import SetupError
from rayllm.pipelines import submission
from rayllm.pipelines.submission import JobCluster, find_token, probe


def _tree(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def test_code_and_configs_are_packed_and_the_rest_stays_behind(tmp_path: Path) -> None:
    kept = ["rayllm/data/shards.py", "configs/run/a.yaml", "README.md", "jobs/train.py"]
    left = [".venv/lib/x.py", "runs/a/b", "data/big", ".git/config", "wandb/log", "rayllm/__pycache__/x.pyc"]
    _tree(tmp_path, *kept, *left, ".pytest_cache/x", "rayllm.egg-info/PKG-INFO")
    assert sorted(select_files(tmp_path)) == sorted(kept)


def test_ignore_files_hold_below_the_directory_that_has_them(tmp_path: Path) -> None:
    _tree(tmp_path, "a/keep.bin", "a/drop.txt", "drop.txt", "b/deep/drop.txt", "b/notes.md")
    (tmp_path / "a" / ".gitignore").write_text("*.txt\n")
    (tmp_path / ".rayignore").write_text("deep/\n")
    assert set(select_files(tmp_path)) == {"a/.gitignore", ".rayignore", "a/keep.bin", "drop.txt", "b/notes.md"}


def test_links_to_directories_are_not_followed(tmp_path: Path) -> None:
    _tree(tmp_path, "outside/secret", "project/file")
    (tmp_path / "project" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "project" / "circle").symlink_to(tmp_path / "project")
    assert list(select_files(tmp_path / "project")) == ["file"]


def test_equal_trees_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _tree(tmp_path / name, "b.py", "a/c.py")
        os.utime(tmp_path / name / "b.py", (1e9, 1e9 if name == "one" else 1.5e9))
    first, second = (pack(tmp_path / name, tmp_path / f"{name}.zip") for name in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    assert zipfile.ZipFile(first).namelist() == ["a/c.py", "b.py"]


def test_a_large_directory_is_refused_and_its_largest_files_named(tmp_path: Path) -> None:
    _tree(tmp_path, "code.py", "weights/model.bin", "corpus.jsonl")
    for path, size in (("weights/model.bin", MAX_PACKAGE_BYTES), ("corpus.jsonl", 1_500_000)):
        os.truncate(tmp_path / path, size)
    with pytest.raises(SetupError) as caught:
        pack(tmp_path, tmp_path / "x.zip")
    assert "weights/model.bin (20.0 MB), corpus.jsonl (1.5 MB)" in caught.value.why
    assert not (tmp_path / "x.zip").exists()


def test_this_repository_is_small_enough_to_submit() -> None:
    root = Path(__file__).resolve().parents[2]
    assert sum((root / path).stat().st_size for path in select_files(root)) < MAX_PACKAGE_BYTES


def test_jobs_join_their_cluster_unless_the_user_says_otherwise() -> None:
    assert on_cluster("train", ["f.yaml", "a=1", "--force"]) == [
        "train",
        "f.yaml",
        "ray.address=auto",
        "a=1",
        "--force",
    ]
    assert on_cluster("train", []) == ["train"]


def test_the_token_is_found_where_ray_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert find_token() == ""
    _tree(tmp_path, ".ray/auth_token", "other")
    assert find_token() == ".ray/auth_token"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    assert find_token() == "other"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "direct")
    assert find_token() == "direct"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "missing"))
    with pytest.raises(SetupError, match="RAY_AUTH_TOKEN_PATH"):
        find_token()


class _Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers like a dashboard of the kind named by the first part of the path."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        if kind == "silent":
            time.sleep(3)
        status = {"guarded": 401 if "Authorization" not in self.headers else 403, "other": 404}.get(kind, 200)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b'{"ray_version": "2.60.0"}' if kind == "good" else b"<html>")

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Dashboard)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_dashboard_tells_its_version(dashboard: str) -> None:
    assert probe(f"{dashboard}/good", {}) == "2.60.0"


@pytest.mark.parametrize(
    ("kind", "headers", "text"),
    [
        ("guarded", {}, "the cluster wants a token"),
        ("guarded", {"Authorization": "Bearer x"}, "the cluster refuses this token"),
        ("other", {}, "no Ray dashboard answers there"),
        ("html", {}, "no Ray dashboard answers there"),
        ("silent", {}, "no Ray dashboard answers there"),
    ],
)
def test_what_is_no_open_dashboard_is_refused_in_seconds(
    dashboard: str, kind: str, headers: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert submission.PROBE_TIMEOUT_S <= 5
    monkeypatch.setattr(submission, "PROBE_TIMEOUT_S", 0.5)
    start = time.monotonic()
    with pytest.raises(SetupError, match=text) as caught:
        probe(f"{dashboard}/{kind}", headers)
    assert time.monotonic() - start < 2
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9", "127.0.0.1:8265", "ray://127.0.0.1:10001", "http://no.invalid"]
)
def test_a_dead_or_malformed_address_is_refused(address: str) -> None:
    with pytest.raises(SetupError):
        JobCluster(address)
