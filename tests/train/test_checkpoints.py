"""What a run keeps, and what it refuses to load."""

import functools
import json
import math
import shutil
from pathlib import Path

import pytest
from ranks import build_engine, run_ranks, small_config, train_small

from rayllm.core.checkpoint import (
    COMMIT,
    Best,
    checkpoint_name,
    find_checkpoint,
    list_checkpoints,
    newest_valid,
    read_best,
    verify_checkpoint,
    write_best,
)
from rayllm.core.errors import ArtifactDamaged, ConfigError, RunFailed
from rayllm.train import retention
from rayllm.train.checkpoint import STATE, read_state, restore
from rayllm.train.config import BestConfig, CheckpointConfig, TrainConfig
from rayllm.train.guards.config import GuardsConfig, SpikesConfig
from rayllm.train.state import RunState


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with checkpoints at three and six, written by two ranks."""
    directory = tmp_path_factory.mktemp("run")
    run_ranks(train_small, 2, str(directory), "deepspeed", 1, small_config())
    return directory


@pytest.fixture
def checkpoints(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints"))


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_nothing_is_left_behind_and_both_checkpoints_are_whole(finished: Path) -> None:
    names = sorted(path.name for path in (finished / "checkpoints").iterdir())
    assert names == ["best.json", "step-00000003-a1", "step-00000006-a1"]
    for ref in list_checkpoints(str(finished / "checkpoints")):
        assert verify_checkpoint(ref.uri, deep=True).world_size == 2


@pytest.mark.fault("P4", "one byte of any file of a checkpoint flipped", "the checkpoint before it is taken")
def test_any_flipped_byte_is_found_and_the_older_one_is_taken(checkpoints: Path) -> None:
    newest = checkpoints / "step-00000006-a1"
    for path in files_of(newest):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        ref, rejected = newest_valid(str(checkpoints))
        assert ref is not None
        assert ref.step == 3, f"a flipped byte in {path.name} went unnoticed"
        assert len(rejected) == 1
        path.write_bytes(data)
    assert newest_valid(str(checkpoints))[0].step == 6


@pytest.mark.fault("P4", "any file of a checkpoint truncated, emptied or deleted", "the checkpoint before it is taken")
@pytest.mark.parametrize("damage", ["truncate", "empty", "delete"])
def test_missing_and_short_files_are_found_without_reading_them(checkpoints: Path, damage: str) -> None:
    newest = checkpoints / "step-00000006-a1"
    for path in files_of(newest):
        data = path.read_bytes()
        if damage == "delete":
            path.unlink()
        else:
            path.write_bytes(data[: len(data) // 2] if damage == "truncate" else b"")
        ref, _ = newest_valid(str(checkpoints), deep=False)
        assert ref is not None
        assert ref.step == 3, f"{damage} of {path.name} went unnoticed"
        path.write_bytes(data)


@pytest.mark.fault("P4", "a run goes on beside a damaged checkpoint", "from the one before; a warning names the file")
def test_a_resumed_run_says_which_checkpoint_it_rejected(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "checkpoints", tmp_path / "checkpoints")
    weights = tmp_path / "checkpoints" / "step-00000006-a1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    again = functools.partial(train_small, attempt=2)  # as a session counts, so that no name is used twice
    result = run_ranks(again, 2, str(tmp_path), "deepspeed", 1, small_config())[0]
    assert result["resumed"].endswith("step-00000003-a1")
    assert "model.safetensors" in result["rejected"][0]


@pytest.mark.fault("P4", "the newest checkpoints damaged", "what is saved after them is kept, and judged anew")
def test_new_checkpoints_are_kept_and_judged_beside_damaged_ones_of_later_steps(
    checkpoints: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoints / "step-00000006-a1", checkpoints / "step-00000009-a1")
    write_best(str(checkpoints), Best(name="step-00000009-a1", metric="mean_bits_per_byte", value=0.5))
    for step in (6, 9):
        (checkpoints / checkpoint_name(step, 1) / "model.safetensors").write_bytes(b"")
    config = small_config(checkpoint=CheckpointConfig(every_steps=1), validation={"every_steps": 5})
    result = train_small(str(tmp_path), "torch", 0, config, stop_at=5)
    assert len(result["rejected"]) == 2
    assert [ref.step for ref in list_checkpoints(str(checkpoints))] == [4, 5]
    assert retention.note_best(str(checkpoints), 5, BestConfig(), 1.0)
    assert (checkpoints / "step-00000009-a1").exists(), "a file of it may be restored"


@pytest.mark.fault(
    "P12", "a file of a checkpoint finds no room", "every rank ends and says why; the older one is whole"
)
def test_a_full_disk_stops_the_run_and_keeps_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "save.write:6=full_disk")
    messages = run_ranks(_train_to_failure, 2, str(tmp_path))
    assert all("saving a checkpoint failed" in text and "No space left" in text for text in messages)
    ref, rejected = newest_valid(str(tmp_path / "checkpoints"))
    assert ref is not None
    assert ref.step == 3
    assert not rejected


def _train_to_failure(directory: str, config: TrainConfig | None = None) -> str:
    try:
        train_small(directory, "deepspeed", 1, config or small_config())
    except RunFailed as error:
        return str(error)
    return "no failure"


@pytest.mark.fault("P10", "three losses in a row are not finite", "the run ends and says where")
def test_three_bad_steps_in_a_row_end_the_run_with_a_diagnosis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:2=nan,step:3=nan,step:4=nan")
    messages = run_ranks(_train_to_failure, 2, str(tmp_path))
    assert all("not finite for 3 steps in a row" in text and "steps 1 to 3" in text for text in messages)


@pytest.mark.fault("P10", "three losses in a row are not finite", "the run ends and says where")
@pytest.mark.parametrize("action", ["report", "skip"])
def test_losses_that_are_infinite_are_no_spikes_however_many_came_before(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step:36=told_inf,step:37=told_inf,step:38=told_inf")
    config = small_config(max_steps=40, guards=GuardsConfig(spikes=SpikesConfig(action=action)))
    (text,) = run_ranks(_train_to_failure, 1, str(tmp_path), config)
    assert "not finite for 3 steps in a row" in text
    assert "steps 35 to 37" in text
    assert "rows of the last batch: " in text


def test_the_last_ones_and_the_best_are_kept(tmp_path: Path) -> None:
    config = small_config(checkpoint=CheckpointConfig(every_steps=1, best=None))
    run_ranks(train_small, 1, str(tmp_path), "torch", 0, config)
    directory = str(tmp_path / "checkpoints")
    assert [ref.step for ref in list_checkpoints(directory)] == [5, 6]
    assert read_best(directory) is None
    least, most = BestConfig(), BestConfig(metric="accuracy/a", mode="max")
    notes = [(5, least, 0.5), (6, least, 0.7), (6, least, math.nan), (6, least, 0.4), (5, most, 0.1), (6, most, 0.05)]
    assert [retention.note_best(directory, *note) for note in notes] == [True, False, False, True, True, False]
    assert read_best(directory) == Best(name="step-00000005-a1", metric="accuracy/a", mode="max", value=0.1)
    assert not retention.note_best(directory, 4, most, 9.0), "its checkpoint was pruned"


def test_the_best_is_not_pruned(tmp_path: Path) -> None:
    directory = str(tmp_path / "checkpoints")
    scores = iter([2.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    config = small_config(checkpoint=CheckpointConfig(every_steps=1), validation={"every_steps": 1}, max_steps=6)
    train_small(str(tmp_path), "torch", 0, config, validate=lambda _: {"mean_bits_per_byte": next(scores)})
    assert [ref.step for ref in list_checkpoints(directory)] == [1, 5, 6]
    assert find_checkpoint(str(tmp_path), "best").endswith("step-00000001-a1")
    assert find_checkpoint(str(tmp_path), "last").endswith("step-00000006-a1")


def test_no_checkpoint_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint here"):
        find_checkpoint(str(tmp_path))


def test_an_uncommitted_directory_is_not_a_checkpoint(checkpoints: Path) -> None:
    (checkpoints / "step-00000006-a1" / COMMIT).unlink()
    assert [ref.step for ref in list_checkpoints(str(checkpoints))] == [3]


def test_the_state_tells_the_position_and_the_history(finished: Path) -> None:
    state = json.loads((finished / "checkpoints" / "step-00000006-a1" / "state.json").read_text())
    assert state["step"] == 6
    assert state["tokens"] == 6 * 256 == sum(state["domain_tokens"].values())
    assert len(state["losses"]) == 6


@pytest.mark.parametrize("kind", ["master", "exp_avg", "exp_avg_sq"])
def test_a_checkpoint_that_lacks_a_part_of_one_parameter_is_not_loaded(checkpoints: Path, kind: str) -> None:
    uri = checkpoints / "step-00000006-a1"
    index = uri / "state" / "rank-00001.json"
    values = json.loads(index.read_text())
    lost = next(each for each in values["slices"] if each[1] == kind)
    values["slices"].remove(lost)
    index.write_text(json.dumps(values))
    with pytest.raises(ArtifactDamaged, match=f"{kind} of {lost[0]} has .* elements needed"):
        restore(build_engine("torch", 0, small_config()), RunState(), str(uri))


def test_progress_that_another_version_saved_is_read_as_far_as_it_goes_or_refused_by_name(checkpoints: Path) -> None:
    uri = checkpoints / "step-00000006-a1"
    state = json.loads((uri / STATE).read_text())
    (uri / STATE).write_text(json.dumps({name: value for name, value in state.items() if name != "rollbacks"}))
    assert read_state(str(uri)).step == 6
    (uri / STATE).write_text(json.dumps(state | {"momentum": 1}))
    with pytest.raises(ArtifactDamaged, match="momentum is not known here"):
        read_state(str(uri))
