"""Saving beside training: the same bytes, errors that reach every rank, and nothing that is lost or waits for ever."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import build_engine, run_ranks, small_config, train_small

from rayllm.core import faults
from rayllm.core.checkpoint import is_pinned, is_set_aside, list_checkpoints, newest_valid, read_best, verify_checkpoint
from rayllm.core.errors import ConfigError, RunFailed
from rayllm.optim.config import MuonConfig, WSDSchedule
from rayllm.train import saving
from rayllm.train.config import BestConfig, CheckpointConfig, TrainConfig, ValidationRunConfig
from rayllm.train.snapshot import Snapshots
from rayllm.train.state import RunState, seed_everything


def config_of(*, asynchronous: bool, **changes: Any) -> TrainConfig:
    return small_config(checkpoint=CheckpointConfig(every_steps=3, asynchronous=asynchronous, **changes))


def digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in (directory / "checkpoints").rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _both_ways(directory: str, kind: str, stage: int, optimizer: str) -> int:
    """The same run twice, saved beside the steps and between them; how many steps went by while a save was at work."""
    chosen = MuonConfig(lr=3e-3, momentum_warmup_steps=4) if optimizer == "muon" else small_config().optimizer
    passed = _count_steps_beside_saves()
    for asynchronous in (True, False):
        seed_everything(7)
        config = config_of(asynchronous=asynchronous).model_copy(update={"optimizer": chosen})
        train_small(f"{directory}/{asynchronous}", kind, stage, config)
    return passed[0]


def _count_steps_beside_saves() -> list[int]:
    """From here on the first save of a run writes only after two more steps."""
    passed = [0]
    write = saving.write_snapshot

    def write_late(snapshot: Any, *rest: Any) -> Any:
        here = _STATE[0]
        deadline = time.monotonic() + 2.0
        while snapshot.step == 3 and here.step < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        passed[0] += here.step - snapshot.step
        return write(snapshot, *rest)

    take = Snapshots.take

    def take_and_remember(self: Snapshots, state: RunState) -> Any:
        _STATE[0] = state
        return take(self, state)

    saving.write_snapshot = write_late
    Snapshots.take = take_and_remember
    return passed


_STATE: list[Any] = [None]


@pytest.mark.fault("P18", "saved while the weights change", "the bytes of a run that waits for its saves")
@pytest.mark.parametrize(
    ("kind", "stage", "optimizer"),
    [
        ("torch", 0, "adamw"),
        ("deepspeed", 0, "muon"),
        ("deepspeed", 1, "adamw"),
        ("deepspeed", 2, "muon"),
        ("deepspeed", 3, "adamw"),
        ("deepspeed", 3, "muon"),
    ],
)
def test_saved_while_the_weights_change_the_bytes_are_those_of_a_run_that_waits(
    kind: str, stage: int, optimizer: str, tmp_path: Path
) -> None:
    passed = run_ranks(_both_ways, 2, str(tmp_path), kind, stage, optimizer)
    assert all(steps >= 2 for steps in passed), "no step was taken beside the save"
    beside, between = digests(tmp_path / "True"), digests(tmp_path / "False")
    assert beside == between
    assert len(list_checkpoints(str(tmp_path / "True" / "checkpoints"))) == 2


def test_a_snapshot_keeps_its_values_and_its_memory() -> None:
    engine = build_engine("torch", 0, small_config())
    snapshots = Snapshots(engine)
    first = snapshots.take(RunState(step=1))
    places = [item.tensor.data_ptr() for item in first.slices]
    values = {name: tensor.clone() for name, tensor in first.weights.items()}
    with torch.no_grad():
        for parameter in engine.module.parameters():
            parameter.add_(1.0)
    assert all(first.weights[name].equal(value) for name, value in values.items())
    masters = {item.param: item.tensor for item in first.slices if item.kind == "master"}
    assert all(masters[name].equal(value.view(-1)) for name, value in values.items())
    assert all(masters[name].data_ptr() == first.weights[name].data_ptr() for name in values), "copied twice"
    second = snapshots.take(RunState(step=2))
    assert [item.tensor.data_ptr() for item in second.slices] == places
    assert (second.name, second.step) == ("step-00000002-a1", 2)
    assert all(second.weights[name].equal(value + 1.0) for name, value in values.items())


def _failing(directory: str, failing_rank: int, error: Callable[[], Exception]) -> tuple[str, int]:
    """A run in which one rank cannot write the first checkpoint: the error, and the steps taken until it came."""
    if int(os.environ["RANK"]) == failing_rank:

        def fail(*_: Any) -> None:
            raise error()

        saving.write_snapshot = fail
    try:
        train_small(directory, "deepspeed", 1, small_config(max_steps=400))
    except RunFailed as caught:
        return str(caught), len(list_checkpoints(f"{directory}/checkpoints"))
    return "no failure", 0


def _full_disk() -> OSError:
    return OSError(28, "No space left on device")


@pytest.mark.fault(
    "P12", "a file of a checkpoint finds no room", "every rank ends and says why; the older one is whole"
)
@pytest.mark.parametrize("failing_rank", [0, 1])
def test_a_rank_that_cannot_write_beside_training_ends_the_run_on_all_at_the_same_step(
    failing_rank: int, tmp_path: Path
) -> None:
    told = run_ranks(_failing, 2, str(tmp_path), failing_rank, _full_disk)
    assert told[0] == told[1]
    text, saved = told[0]
    assert "saving a checkpoint failed" in text
    assert f"rank {failing_rank}" in text
    assert "No space left on device" in text
    assert saved == 0
    assert newest_valid(str(tmp_path / "checkpoints")) == (None, [])


@pytest.mark.fault("P3", "ranks killed in a step or a save, at each point", "at most the steps of one save done again")
@pytest.mark.parametrize(
    ("point", "from_step"),
    [
        ("save.snapshot:6", 3),
        ("save.slices:6", 3),
        ("save.weights:6", 3),
        ("save.moved:6", 3),
        ("publish.commit:6", 3),
        ("report.before:6", 6),
        ("report.after:6", 6),
    ],
)
def test_a_kill_at_each_point_of_a_save_leaves_a_checkpoint_to_go_on_from(
    point: str, from_step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", f"{point}=kill")
    with pytest.raises(AssertionError, match="died"):
        run_ranks(train_small, 1, str(tmp_path), "torch", 0, config_of(asynchronous=True))
    ref, rejected = newest_valid(str(tmp_path / "checkpoints"))
    assert ref is not None
    assert (ref.step, rejected) == (from_step, [])


@pytest.mark.fault("P4", "a file cut short right after it was published", "the run ends, and nothing older is deleted")
def test_older_checkpoints_stay_where_a_new_one_is_not_whole_once_it_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = tmp_path / "checkpoints"

    def cut(point: str, step: int = 0, attempt: int = 0) -> str:
        if (point, step) == ("save.published", 4):
            os.truncate(checkpoints / "step-00000004-a1" / "model.safetensors", 100)
        return ""

    monkeypatch.setattr(saving, "fault", cut)
    config = small_config(checkpoint=CheckpointConfig(every_steps=1, best=None))
    with pytest.raises(RunFailed, match=r"saving a checkpoint failed(.|\n)*step-00000004-a1(.|\n)*model.safetensors"):
        train_small(str(tmp_path), "torch", 0, config)
    assert [ref.step for ref in list_checkpoints(str(checkpoints))] == [2, 3]
    assert is_set_aside(str(checkpoints / "step-00000004-a1"))
    ref, _ = newest_valid(str(checkpoints))
    assert ref is not None
    assert ref.step == 3


def test_a_run_that_fails_finishes_the_save_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "save.write=slow,step:4=nan,step:5=nan,step:6=nan")
    faults._specs.cache_clear()
    with pytest.raises(RunFailed, match="not finite for 3 steps"):
        train_small(str(tmp_path), "torch", 0, small_config(max_steps=9))
    faults._specs.cache_clear()
    (ref,) = list_checkpoints(str(tmp_path / "checkpoints"))
    assert verify_checkpoint(ref.uri, deep=True).step == 3


def test_a_save_that_hangs_is_waited_for_until_its_time_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that waits for a slow save shows signs of life; after ``timeout_s`` the watchdog hears no more of it."""
    beats: list[float] = []
    hanging, started = threading.Event(), time.monotonic()
    write = saving.write_snapshot

    def write_slowly(*args: Any) -> Any:
        hanging.wait(1.0)
        return write(*args)

    monkeypatch.setattr(saving, "BEAT_S", 0.05)
    monkeypatch.setattr(saving, "write_snapshot", write_slowly)

    def beat(_: object, step: int, phase: str) -> None:
        if phase.startswith("waiting for the checkpoint"):
            beats.append(time.monotonic() - started)

    monkeypatch.setattr("rayllm.train.guards.watchdog.Watchdog.beat", beat)
    config = config_of(asynchronous=False, timeout_s=0.4).model_copy(update={"max_steps": 3})
    train_small(str(tmp_path), "torch", 0, config)
    assert beats
    assert max(beats) - min(beats) < 0.6
    assert len(list_checkpoints(str(tmp_path / "checkpoints"))) == 1


def test_a_notice_makes_one_checkpoint_and_the_run_goes_on(tmp_path: Path) -> None:
    notices = iter(["", "node n1 with rank 0 is to be taken away", *[""] * 100])
    result = train_small(str(tmp_path), "torch", 0, small_config(), notice=lambda: next(notices))
    assert result["finished"]
    assert [ref.step for ref in list_checkpoints(str(tmp_path / "checkpoints"))] == [3, 6]
    (event,) = [record for record in result["records"] if record["kind"] == "event"]
    assert event["message"] == "node n1 with rank 0 is to be taken away: saving after this step"
    assert event["level"] == "warning"


def test_the_best_is_judged_by_the_metric_that_the_config_names(tmp_path: Path) -> None:
    scores = iter([9.0, 1.0, 5.0, 3.0, 5.0, 2.0, 2.0])
    checkpoint = CheckpointConfig(every_steps=1, best=BestConfig(metric="accuracy/a", mode="max"))
    config = small_config(checkpoint=checkpoint, validation={"every_steps": 1})
    train_small(str(tmp_path), "torch", 0, config, validate=lambda _: {"accuracy/a": next(scores)})
    best = read_best(str(tmp_path / "checkpoints"))
    assert best is not None
    assert (best.name, best.metric, best.mode, best.value) == ("step-00000002-a1", "accuracy/a", "max", 5.0)
    assert [ref.step for ref in list_checkpoints(str(tmp_path / "checkpoints"))] == [2, 5, 6]


@pytest.mark.fault("P3", "a rank killed between a commit and what follows it", "the next start validates and pins")
def test_what_follows_a_commit_is_made_up_for_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "report.after:4=kill")
    config = config_of(asynchronous=False).model_copy(
        update={
            "schedule": WSDSchedule(warmup_frac=0.0, decay_frac=0.34),
            "validation": ValidationRunConfig(every_steps=4),
        }
    )
    with pytest.raises(AssertionError, match="died"):
        run_ranks(train_small, 1, str(tmp_path), "torch", 0, config)
    faults._specs.cache_clear()
    monkeypatch.delenv("RAYLLM_FAULT")
    result = train_small(str(tmp_path), "torch", 0, config, validate=_growing_bits(), attempt=2)
    assert [record["step"] for record in result["records"] if record["kind"] == "validation"] == [4, 6]
    resumed = Path(result["resumed"])
    assert resumed.name == "step-00000004-a1"
    assert is_pinned(str(resumed))
    best = read_best(str(resumed.parent))
    assert best is not None
    assert best.name == resumed.name


def _growing_bits() -> Callable[[object], dict[str, float]]:
    values = iter(range(1, 100))
    return lambda _: {"mean_bits_per_byte": float(next(values))}


def test_a_metric_that_validation_does_not_give_is_refused_before_the_first_step(tmp_path: Path) -> None:
    config = small_config(checkpoint=CheckpointConfig(best=BestConfig(metric="loss/c")))
    with pytest.raises(ConfigError, match=r"`loss/c` is not among loss/a, loss/b"):
        train_small(str(tmp_path), "torch", 0, config, validate=lambda _: {"loss/b": 1.0, "loss/a": 1.0})
