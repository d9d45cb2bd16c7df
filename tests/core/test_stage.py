"""The stage runner: skip, run, publish; nothing half done is ever taken for done."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from rayllm.core import stage, storage
from rayllm.core.artifact import MANIFEST
from rayllm.core.config import RUNTIME, ConfigModel
from rayllm.core.errors import ArtifactDamaged, RayllmError, SetupError
from rayllm.core.stage import Task, Work, run_task


class Settings(ConfigModel):
    size: int = Field(3, description="Bytes to write.")
    threads: int = Field(1, description="How, not what.", json_schema_extra=RUNTIME)


def _write(work: Work) -> dict[str, Any]:
    storage.write_bytes(work.path("out", "data"), b"x" * work.config.size)
    return {"bytes": work.config.size}


def _task(config: Settings | None = None, run=_write, **options: Any) -> Task:
    return Task("make", run, config or Settings(), **options)


@pytest.fixture(params=["local", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('bucket')}/runs"
    return str(tmp_path / "runs") if request.param == "local" else f"memory://{tmp_path}/runs"


def test_a_stage_runs_once_and_is_found_the_next_time(root: str) -> None:
    calls = []
    task = _task(run=lambda work: calls.append(1) or _write(work))
    artifact, found = run_task(task, root)
    assert (found, artifact.counts) == (False, {"bytes": 3})
    assert storage.list_files(artifact.uri) == [MANIFEST, "out/data"]
    assert artifact.uri == f"{root}/make-{task.hash[:12]}"
    again, found = run_task(task, root)
    assert (found, again) == (True, artifact)
    assert len(calls) == 1
    forced, found = run_task(task, root, force=True)
    assert (found, forced.hash, len(calls)) == (False, artifact.hash, 2)


def test_what_is_pinned_and_pruned_once_a_stage_is_done_is_no_damage(root: str) -> None:
    first, second = ("checkpoints/step-00000001-a1/PINNED", "checkpoints/step-00000002-a1/COMMIT.json")

    def train(work: Work) -> dict[str, Any]:
        for path in ("metrics.jsonl", first, second):
            storage.write_bytes(work.path(path), b"x")
        return {}

    artifact, _ = run_task(_task(run=train, in_place=True), root)
    assert [record.path for record in artifact.manifest.files] == ["metrics.jsonl"]
    storage.remove(artifact.file(first))
    storage.remove(artifact.file(second))
    assert run_task(_task(run=train, in_place=True), root) == (artifact, True)


def test_the_hash_covers_what_shapes_the_result_and_nothing_else(tmp_path: Path) -> None:
    base = _task().hash
    assert _task(Settings(threads=8)).hash == base
    parent, _ = run_task(_task(), str(tmp_path))
    others = [
        _task(Settings(size=4)).hash,
        _task(version=2).hash,
        _task(inputs={"parent": parent}).hash,
        Task("other", _write, Settings()).hash,
    ]
    assert len({base, *others}) == 5


def test_a_damaged_artifact_is_named_and_not_used(root: str) -> None:
    artifact, _ = run_task(_task(), root)
    storage.write_bytes(artifact.file("out/data"), b"x")
    with pytest.raises(ArtifactDamaged, match="out/data has 1 bytes") as caught:
        run_task(_task(), root)
    assert "--force" in caught.value.fix
    run_task(_task(), root, force=True)[0].verify(deep=True)


def test_a_failed_stage_publishes_nothing_and_leaves_no_scraps_to_the_next(root: str) -> None:
    def fail(work: Work) -> dict[str, Any]:
        storage.write_bytes(work.path("scrap"), b"half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run_task(_task(run=fail), root)
    assert not storage.exists(storage.join(_task().uri(root), MANIFEST))
    artifact, found = run_task(_task(), root)
    assert not found
    assert storage.list_files(artifact.uri) == [MANIFEST, "out/data"]


def test_a_forced_stage_that_fails_keeps_the_old_artifact(tmp_path: Path) -> None:
    artifact, _ = run_task(_task(), str(tmp_path))

    def fail(_: Work) -> dict[str, Any]:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run_task(_task(run=fail), str(tmp_path), force=True)
    assert run_task(_task(), str(tmp_path)) == (artifact, True)


def test_a_stage_in_place_finds_its_own_half_done_work(root: str) -> None:
    def step(work: Work) -> dict[str, Any]:
        done = len(storage.list_files(work.path("steps")))
        storage.write_bytes(work.path("steps", str(done)), b"s")
        if done < 2:
            raise RuntimeError("stopped")
        return {"steps": done + 1}

    for _ in range(2):
        with pytest.raises(RuntimeError):
            run_task(_task(run=step, in_place=True), root)
    artifact, _ = run_task(_task(run=step, in_place=True), root)
    assert artifact.counts == {"steps": 3}
    assert artifact.uri == _task().uri(root)


def test_a_forced_stage_in_place_begins_once_and_goes_on_when_forced_again(root: str) -> None:
    old, _ = run_task(_task(in_place=True), root)
    found = []

    def step(work: Work) -> dict[str, Any]:
        found.append(storage.list_files(work.directory))
        storage.write_bytes(work.path("steps", str(len(found))), b"s")
        if len(found) < 3:
            raise RuntimeError("stopped")
        return {}

    for _ in range(2):
        with pytest.raises(RuntimeError):
            run_task(_task(run=step, in_place=True), root, force=True)
    aside = storage.join(root, f".{old.uri.rpartition('/')[2]}.before")
    if storage.is_local(root):
        assert (storage.local_path(aside) / storage.local_path(old.uri).name / "out" / "data").read_bytes() == b"xxx"
    run_task(_task(run=step, in_place=True), root, force=True)
    assert found == [[], ["steps/1"], ["steps/1", "steps/2"]]
    assert not storage.list_files(aside)


@pytest.mark.parametrize("force", [False, True])
def test_a_forced_stage_killed_once_it_had_published_is_done(
    tmp_path: Path, force: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    def step(work: Work) -> dict[str, Any]:
        made.append(storage.exists(work.path("out", "data")))
        return _write(work)

    def killed(uri: str) -> str:
        if len(made) == 2:
            raise KeyboardInterrupt
        return f"{uri}.scratch"

    task = _task(run=step, in_place=True)
    artifact, _ = run_task(task, str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_scratch", killed)
        with pytest.raises(KeyboardInterrupt):
            run_task(task, str(tmp_path), force=True)
    assert len(list(tmp_path.iterdir())) == 2, "the old artifact lies beside the new one"
    assert run_task(task, str(tmp_path), force=force)[1] is not force
    assert made == [False] * (3 if force else 2), "forced again it is made again, from nothing"
    assert [path.name for path in tmp_path.iterdir()] == [Path(artifact.uri).name]


def test_what_a_reader_sees_is_nothing_or_all(tmp_path: Path) -> None:
    seen = []

    def look(work: Work) -> dict[str, Any]:
        counts = _write(work)
        seen.append(Path(_task().uri(str(tmp_path))).exists())
        return counts

    artifact, _ = run_task(_task(run=look), str(tmp_path))
    assert seen == [False]
    assert sorted(os.listdir(tmp_path)) == [Path(artifact.uri).name]


def test_two_processes_do_not_make_the_same_artifact_at_once(tmp_path: Path) -> None:
    inside, release = threading.Event(), threading.Event()

    def slow(work: Work) -> dict[str, Any]:
        inside.set()
        assert release.wait(10)
        return _write(work)

    first = threading.Thread(target=run_task, args=(_task(run=slow), str(tmp_path)))
    first.start()
    assert inside.wait(10)
    with pytest.raises(SetupError, match="another process is making make-"):
        run_task(_task(), str(tmp_path))
    release.set()
    first.join()
    assert run_task(_task(), str(tmp_path))[1]


def test_what_another_process_made_meanwhile_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    task = _task(run=lambda work: calls.append(1) or _write(work))

    def let_the_other_through(root: str) -> None:
        monkeypatch.undo()
        assert not run_task(task, root)[1]

    monkeypatch.setattr(stage, "check_writable", let_the_other_through)
    assert run_task(task, str(tmp_path))[1]
    assert len(calls) == 1


def test_a_storage_that_cannot_be_written_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SetupError, match="cannot be written") as caught:
        run_task(_task(), str(tmp_path / "file" / "runs"))
    assert "storage=" in caught.value.fix


def test_a_bucket_that_is_not_there_is_a_setup_error(bucket: str) -> None:
    with pytest.raises(SetupError, match="cannot be written"):
        run_task(_task(), f"{bucket}-missing/runs")


FULL_DISK = """
import resource, sys
from rayllm.core import storage
from rayllm.core.errors import SetupError
from rayllm.core.stage import Task, run_task
from rayllm.core.config import ConfigModel
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
def run(work):
    storage.write_bytes(work.path("data"), b"x" * 200_000)
    return {}
try:
    run_task(Task("make", run, ConfigModel()), sys.argv[1])
except SetupError as error:
    sys.exit(f"{error}")
"""


def test_a_full_disk_is_named_and_nothing_is_published(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "no room left" in done.stderr
    assert str(tmp_path) in done.stderr
    assert not list(tmp_path.glob("make-*"))


def test_errors_keep_their_parts_across_process_borders() -> None:
    error = SetupError("what", where="here", why="because", fix="do")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is SetupError
    assert isinstance(copy, RayllmError)
    assert (str(copy), copy.fix, copy.exit_code) == (str(error), "do", 3)
    assert str(error) == "what\n  where: here\n  why:   because\n  fix:   do"


@pytest.mark.parametrize("in_place", [False, True])
def test_scratch_work_stays_until_the_artifact_is_published(tmp_path: Path, in_place: bool) -> None:
    found: list[bool] = []

    def work(work: Work) -> dict[str, int]:
        kept = Path(work.scratch) / "kept"
        found.append(kept.exists())
        kept.parent.mkdir(exist_ok=True)
        kept.touch()
        if len(found) == 1:
            raise KeyboardInterrupt
        return {}

    task = _task(run=work, in_place=in_place)
    with pytest.raises(KeyboardInterrupt):
        run_task(task, str(tmp_path))
    artifact, _ = run_task(task, str(tmp_path))
    assert found == [False, in_place]
    assert [path.name for path in tmp_path.iterdir()] == [Path(artifact.uri).name]
    left = tmp_path / f".{Path(artifact.uri).name}.scratch"  # of a process killed just after it had published
    left.mkdir()
    assert run_task(task, str(tmp_path))[1]
    assert not left.exists()


def test_a_finished_stage_goes_on_where_a_limit_was_raised(root: str) -> None:
    def step(work: Work) -> dict[str, Any]:
        known = storage.list_files(work.directory)
        storage.write_bytes(work.path(str(len(known))), b"s")
        return {"known": known}

    first, _ = run_task(_task(run=step, in_place=True), root)
    again = _task(run=step, in_place=True, goes_on=lambda manifest: manifest.counts["known"] == [])
    artifact, found = run_task(again, root)
    assert not found
    assert artifact.uri == first.uri
    assert artifact.counts == {"known": ["0"]}
    artifact.verify(deep=True)
    assert run_task(again, root) == (artifact, True)
