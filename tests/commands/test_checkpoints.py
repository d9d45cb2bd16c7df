"""``rayllm checkpoints`` on directories that were published as training publishes them, local and remote."""

import errno
import json
import uuid
from pathlib import Path

import pytest

from rayllm.cli import main
from rayllm.core import storage
from rayllm.core.artifact import record_files
from rayllm.core.checkpoint import (
    COMMIT,
    DIRECTORY,
    Best,
    Commit,
    checkpoint_name,
    list_checkpoints,
    newest_valid,
    publish_directory,
    staging_directory,
    write_best,
    write_rank_manifest,
)


def save(run: str, step: int) -> str:
    checkpoints, name = storage.join(run, DIRECTORY), checkpoint_name(step, 1)
    staged = staging_directory(checkpoints, name, 0)
    (staged / "weights.bin").write_bytes(bytes([step]) * 1000)
    manifest = write_rank_manifest(str(staged), 0, record_files(str(staged), ["weights.bin"]))
    commit = Commit(step=step, attempt=1, world_size=1, manifests=[manifest])
    (staged / COMMIT).write_text(commit.model_dump_json())
    publish_directory(staged, storage.join(checkpoints, name))
    return storage.join(checkpoints, name)


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A train artifact with five checkpoints, of which the second is the best."""
    uri = str(tmp_path / "train") if request.param == "local" else f"memory://{uuid.uuid4().hex}/train"
    for step in (10, 20, 30, 40, 50):
        save(uri, step)
    best = Best(name=checkpoint_name(20, 1), metric="loss/code", value=1.25)
    write_best(storage.join(uri, DIRECTORY), best)
    return uri


def steps(run: str) -> list[int]:
    return [ref.step for ref in list_checkpoints(storage.join(run, DIRECTORY))]


def test_a_listing_names_each_with_its_size_and_what_keeps_it(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "pin", run, checkpoint_name(10, 1)]) == 0
    capsys.readouterr()
    assert main(["checkpoints", "ls", run]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [checkpoint_name(step, 1) for step in (10, 20, 30, 40, 50)]
    assert lines[0].endswith("pinned")
    assert "best (loss/code 1.2500)" in lines[1]
    assert main(["checkpoints", "ls", run, "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (first["step"], first["pinned"], first["best"]) == (10, True, None)
    assert first["bytes"] > 1000


def test_verify_names_the_damaged_one_and_fails(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "verify", run]) == 0
    assert capsys.readouterr().out.count("whole: hashes of all files") == 5
    flipped = storage.join(run, DIRECTORY, checkpoint_name(30, 1), "weights.bin")
    storage.write_bytes(flipped, bytes([30]) * 999 + b"x")
    assert main(["checkpoints", "verify", run, "--quick"]) == 0
    capsys.readouterr()
    assert main(["checkpoints", "verify", run]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert line.startswith(checkpoint_name(30, 1))
    assert "weights.bin" in line


def test_verify_writes_nothing_where_nothing_was_set_aside(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(uri: str, *_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", uri)

    monkeypatch.setattr(storage, "remove", refuse)
    monkeypatch.setattr(storage, "write_bytes", refuse)
    assert main(["checkpoints", "verify", run]) == 0


def test_one_that_was_set_aside_is_shown_kept_and_used_again_once_it_is_whole(
    run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = storage.join(run, DIRECTORY, checkpoint_name(50, 1))
    storage.write_bytes(storage.join(damaged, "weights.bin"), b"x" * 1000)
    newest_valid(storage.join(run, DIRECTORY), setting_aside=True)
    main(["checkpoints", "ls", run])
    assert capsys.readouterr().out.splitlines()[-1].endswith("damaged")
    assert main(["checkpoints", "verify", run, "--quick"]) == main(["checkpoints", "verify", run]) == 1
    assert main(["checkpoints", "prune", run]) == 0
    assert storage.exists(damaged)
    assert steps(run) == [20, 30, 40]
    storage.write_bytes(storage.join(damaged, "weights.bin"), bytes([50]) * 1000)
    assert main(["checkpoints", "verify", run]) == 0
    assert "it was set aside and is used again" in capsys.readouterr().out.splitlines()[-1]
    assert steps(run) == [20, 30, 40, 50]


def test_prune_keeps_the_newest_the_best_and_the_pinned(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["checkpoints", "pin", run, checkpoint_name(10, 1)])
    assert main(["checkpoints", "prune", run, "--dry-run"]) == 0
    assert "would delete 1 checkpoints" in capsys.readouterr().out
    assert steps(run) == [10, 20, 30, 40, 50]
    assert main(["checkpoints", "prune", run]) == 0
    assert steps(run) == [10, 20, 40, 50]
    main(["checkpoints", "unpin", run, checkpoint_name(10, 1)])
    assert main(["checkpoints", "prune", run, "--drop-best"]) == 0
    assert steps(run) == [40, 50]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["prune", "RUN", "--keep-last", "1"], "at least two checkpoints are kept"),
        (["pin", "RUN", "step-00000099-a1"], "there are step-00000010-a1"),
        (["ls", "RUN/elsewhere"], "there is no checkpoint here"),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_lost(
    run: str, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["checkpoints", *(argument.replace("RUN", run) for argument in arguments)]) == 2
    assert says in capsys.readouterr().err
    assert len(steps(run)) == 5
