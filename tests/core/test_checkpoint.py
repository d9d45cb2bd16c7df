"""Checkpoints at local and remote URIs; what is in them is tested with training."""

import errno
import uuid
from pathlib import Path

import pytest

from rayllm.core import storage
from rayllm.core.artifact import record_files
from rayllm.core.checkpoint import (
    COMMIT,
    DIRECTORY,
    Best,
    Commit,
    checkpoint_name,
    clear_staging,
    clear_uncommitted,
    find_checkpoint,
    list_checkpoints,
    newest_valid,
    publish_directory,
    read_best,
    remove_checkpoint,
    staging_directory,
    take_back,
    verify_checkpoint,
    write_best,
    write_rank_manifest,
)
from rayllm.core.errors import ArtifactDamaged, ConfigError, SetupError


@pytest.fixture(params=["local", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of the directory of a train artifact."""
    return str(tmp_path / "train") if request.param == "local" else f"memory://{uuid.uuid4().hex}/train"


def save(run: str, step: int, attempt: int = 1, ranks: int = 2) -> str:
    """Publish a checkpoint of small files, as the ranks of a run do, rank 0 last; returns its URI."""
    checkpoints, name = storage.join(run, DIRECTORY), checkpoint_name(step, attempt)
    staged = [staging_directory(checkpoints, name, rank) for rank in range(ranks)]
    manifests = []
    for rank, directory in enumerate(staged):
        path = f"state/rank-{rank:05d}.bin"
        (directory / "state").mkdir()
        (directory / path).write_bytes(f"{step} {rank}".encode())
        manifests.append(write_rank_manifest(str(directory), rank, record_files(str(directory), [path])))
    commit = Commit(step=step, attempt=attempt, world_size=ranks, manifests=manifests)
    (staged[0] / COMMIT).write_text(commit.model_dump_json())
    for directory in reversed(staged):
        publish_directory(directory, storage.join(checkpoints, name))
        assert not directory.exists()
    return storage.join(checkpoints, name)


def test_what_is_published_is_whole_and_listed_in_order(run: str) -> None:
    for step, attempt in ((20, 1), (3, 1), (20, 2), (100, 1)):
        save(run, step, attempt)
    found = list_checkpoints(storage.join(run, DIRECTORY))
    assert [(ref.step, ref.attempt) for ref in found] == [(3, 1), (20, 1), (20, 2), (100, 1)]
    for ref in found:
        assert verify_checkpoint(ref.uri, deep=True).step == ref.step
        assert verify_checkpoint(ref.uri, deep=False).world_size == 2


def test_a_directory_that_is_not_there_has_no_checkpoints(run: str) -> None:
    assert list_checkpoints(storage.join(run, DIRECTORY)) == []
    assert newest_valid(storage.join(run, DIRECTORY)) == (None, [])


def test_without_its_commit_a_directory_is_not_a_checkpoint(run: str) -> None:
    uri = save(run, 5)
    storage.remove(storage.join(uri, COMMIT))
    assert list_checkpoints(storage.join(run, DIRECTORY)) == []
    with pytest.raises(ArtifactDamaged, match="never finished"):
        verify_checkpoint(uri, deep=False)


@pytest.mark.parametrize("text", ["", "{", '{"step": 1}'])
def test_a_torn_commit_is_damage(run: str, text: str) -> None:
    uri = save(run, 5)
    storage.write_text(storage.join(uri, COMMIT), text)
    with pytest.raises(ArtifactDamaged, match=r"COMMIT\.json cannot be read"):
        verify_checkpoint(uri, deep=False)


def test_a_damaged_one_is_named_and_the_one_before_is_taken(run: str) -> None:
    older, newer = save(run, 5), save(run, 9)
    storage.write_text(storage.join(newer, "state/rank-00001.bin"), "9 x")
    verify_checkpoint(newer, deep=False)
    with pytest.raises(ArtifactDamaged, match=r"rank-00001\.bin has other content"):
        verify_checkpoint(newer, deep=True)
    ref, rejected = newest_valid(storage.join(run, DIRECTORY))
    assert ref is not None
    assert ref.uri == older
    (line,) = rejected
    assert newer in line
    assert "rank-00001.bin" in line


def test_a_damaged_one_that_is_set_aside_counts_no_more_until_it_is_taken_back(run: str) -> None:
    older, newer = save(run, 5), save(run, 9)
    directory, file = storage.join(run, DIRECTORY), storage.join(newer, "state/rank-00001.bin")
    storage.write_text(file, "9 x")
    write_best(directory, Best(name="step-00000009-a1", metric="loss/a", value=1.0))
    ref, (line,) = newest_valid(directory, setting_aside=True)
    assert ref is not None
    assert ref.uri == older
    assert "rank-00001.bin" in line
    assert newest_valid(directory) == (ref, []), "it was told once"
    assert find_checkpoint(run, "best") == find_checkpoint(run, "last") == older
    assert [ref.step for ref in list_checkpoints(directory, also_set_aside=True)] == [5, 9]
    storage.write_text(file, "9 1")
    take_back(newer)
    assert find_checkpoint(run, "best") == newer
    assert [ref.step for ref in list_checkpoints(directory)] == [5, 9]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SetupError("the storage cannot be reached")]
)
def test_a_damaged_one_that_cannot_be_marked_is_passed_over_all_the_same(
    run: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    older, newer = save(run, 5), save(run, 9)
    storage.write_text(storage.join(newer, "state/rank-00001.bin"), "9 x")

    def refuse(uri: str, data: bytes) -> None:
        raise error

    monkeypatch.setattr(storage, "write_bytes", refuse)
    ref, (line,) = newest_valid(storage.join(run, DIRECTORY), setting_aside=True)
    assert ref is not None
    assert ref.uri == older
    assert "rank-00001.bin" in line
    assert f"it could not be set aside: {error}" in line


def test_where_all_are_damaged_that_is_said(run: str) -> None:
    storage.remove(storage.join(save(run, 5), "state/rank-00001.bin"))
    assert newest_valid(storage.join(run, DIRECTORY), setting_aside=True)[0] is None
    with pytest.raises(ConfigError, match="all are damaged"):
        find_checkpoint(run)


def test_who_wants_only_weights_needs_no_state(run: str) -> None:
    uri = save(run, 5)
    storage.write_text(storage.join(uri, "state/rank-00001.bin"), "5 x")
    with pytest.raises(ArtifactDamaged, match=r"rank-00001\.bin has other content"):
        verify_checkpoint(uri, deep=True)
    storage.remove(storage.join(uri, "state"))
    assert verify_checkpoint(uri, deep=True, weights_only=True).step == 5
    storage.remove(storage.join(uri, "rank-00001.manifest.json"))
    with pytest.raises(ArtifactDamaged, match=r"rank-00001\.manifest\.json is missing"):
        verify_checkpoint(uri, deep=True, weights_only=True)


def test_a_rank_that_is_not_in_the_commit_is_damage(run: str) -> None:
    uri = save(run, 5)
    commit = Commit.model_validate_json(storage.read_bytes(storage.join(uri, COMMIT)))
    torn = commit.model_copy(update={"manifests": commit.manifests[:1]})
    storage.write_text(storage.join(uri, COMMIT), torn.model_dump_json())
    with pytest.raises(ArtifactDamaged, match="a rank's manifest is missing"):
        verify_checkpoint(uri, deep=False)


def test_a_user_may_name_the_artifact_the_directory_or_the_checkpoint(run: str) -> None:
    save(run, 5)
    last = save(run, 9)
    for uri in (run, storage.join(run, DIRECTORY), last):
        assert find_checkpoint(uri) == last
    with pytest.raises(ConfigError, match="no checkpoint here"):
        find_checkpoint(storage.join(run, "elsewhere"))


def test_a_training_that_never_saved_is_no_rival_to_one_that_did(run: str) -> None:
    whole, never, other = (storage.join(run, name) for name in ("train-a", "train-b", "train-c"))
    last = save(whole, 5)
    storage.write_text(storage.join(never, "attempt.json"), "{}")
    assert find_checkpoint(run) == last
    save(other, 5)
    with pytest.raises(ConfigError, match=r"several settings(.|\n)*train-a, train-c"):
        find_checkpoint(run)


def test_the_best_is_preferred_while_it_is_whole(run: str) -> None:
    best, last = save(run, 5), save(run, 9)
    directory = storage.join(run, DIRECTORY)
    assert read_best(directory) is None
    write_best(directory, Best(name="step-00000005-a1", metric="mean_bits_per_byte", value=1.5))
    found = read_best(directory)
    assert found is not None
    assert (found.name, found.metric, found.value) == ("step-00000005-a1", "mean_bits_per_byte", 1.5)
    assert find_checkpoint(run) == best
    assert find_checkpoint(run, prefer="last") == last
    remove_checkpoint(best)
    assert find_checkpoint(run) == last


@pytest.mark.parametrize("text", ["", "{", '{"name": 5}'])
def test_a_torn_note_of_the_best_is_damage_but_the_last_is_found(run: str, text: str) -> None:
    last = save(run, 9)
    directory = storage.join(run, DIRECTORY)
    storage.write_text(storage.join(directory, "best.json"), text)
    with pytest.raises(ArtifactDamaged, match=r"best\.json[\s\S]*delete the file"):
        read_best(directory)
    assert find_checkpoint(run) == last


def test_a_removed_checkpoint_leaves_nothing(run: str) -> None:
    uri = save(run, 5)
    remove_checkpoint(uri)
    assert storage.list_files(storage.join(run, DIRECTORY)) == []


def test_what_killed_saves_and_deletions_left_is_removed_and_nothing_else(run: str) -> None:
    directory = storage.join(run, DIRECTORY)
    clear_uncommitted(directory)  # before the first checkpoint
    kept, torn = save(run, 5), save(run, 9)
    storage.remove(storage.join(torn, COMMIT))
    storage.write_text(storage.join(directory, "notes", "mine.txt"), "not a checkpoint")
    clear_uncommitted(directory)
    assert {path.split("/")[0] for path in storage.list_files(directory)} == {"step-00000005-a1", "notes"}
    assert verify_checkpoint(kept, deep=True).step == 5


def test_staging_begins_empty_and_what_a_killed_save_left_is_cleared(tmp_path: Path) -> None:
    directory = str(tmp_path / DIRECTORY)
    first = staging_directory(directory, "step-00000001-a1", 0)
    (first / "torn").write_text("x")
    again = staging_directory(directory, "step-00000001-a1", 0)
    assert again == first
    assert list(again.iterdir()) == []
    clear_staging(directory)
    assert list((tmp_path / DIRECTORY).iterdir()) == []


def test_what_killed_saves_and_deletions_left_is_cleared_wherever_it_is(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    directory = storage.join(run, DIRECTORY)
    whole, torn = save(run, 5), save(run, 9)
    storage.remove(storage.join(torn, COMMIT))
    killed = staging_directory(directory, "step-00000012-a1", 1)
    (killed / "weights").write_bytes(b"x")
    clear_staging(directory)
    clear_uncommitted(directory)
    assert not killed.exists()
    assert storage.list_files(torn) == []
    assert [ref.uri for ref in list_checkpoints(directory)] == [whole]


def test_the_names_of_all_files_are_flushed_once_they_are_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    staged = staging_directory(str(tmp_path), "step-00000001-a1", 0)
    target = tmp_path / "step-00000001-a1"

    def note(directory: Path) -> None:
        assert (target / "state" / "deeper" / "rank").exists()
        flushed.append(directory)

    (staged / "state" / "deeper").mkdir(parents=True)
    (staged / "state" / "deeper" / "rank").write_bytes(b"x")
    monkeypatch.setattr(storage, "sync_directory", note)
    publish_directory(staged, str(target))
    assert flushed == [target / "state" / "deeper", target / "state", target, tmp_path]


def test_nothing_stays_on_this_machine_of_a_checkpoint_that_went_to_an_object_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    staged = [staging_directory("memory://staged/checkpoints", "step-00000001-a1", rank) for rank in (0, 1)]
    for directory in staged:
        assert directory.is_relative_to(tmp_path)
        (directory / "weights").write_bytes(b"x")
    for directory in staged:
        publish_directory(directory, "memory://staged/checkpoints/step-00000001-a1")
    assert storage.list_files("memory://staged/checkpoints") == ["step-00000001-a1/weights"]
    assert not list(tmp_path.iterdir())
