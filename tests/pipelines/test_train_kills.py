"""What Ray Train does not start again by itself is started again by the driver."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from fault_table import RECOVERY
from packing_fixture import make_packed
from ranks import run_ranks
from recovery import first_step_s
from small_session import all_records, forked_run, make_config, records

from rayllm.core.artifact import sha256_file
from rayllm.core.checkpoint import list_checkpoints
from rayllm.core.stage import Task, run_task
from rayllm.pipelines import train

STEPS, EVERY = 40, 8


@pytest.mark.ray
@pytest.mark.fault("P3", "Ray Train's controller killed", "a new one goes on from the last checkpoint; the same bits")
def test_a_killed_controller_costs_no_bit(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, float], None]
) -> None:
    packed = make_packed(tmp_path / "packed", count=120)
    config = make_config(tmp_path, max_steps=STEPS, checkpoint={"every_steps": EVERY}, samples={})
    run_ranks(forked_run, 2, config, packed.uri, str(tmp_path / "straight"))
    monkeypatch.setenv("RAYLLM_ALLOW_FAULTS", "1")
    monkeypatch.setenv("RAYLLM_FAULT", "step=slow")
    died: list[float] = []
    actors: set[str] = set()
    before = _actors()
    killer = threading.Thread(target=_kill_controller, args=(tmp_path / "ray", died, actors))
    killer.start()
    artifact, _ = run_task(Task("train", train.run, config, {"pack": packed}, in_place=True), str(tmp_path / "ray"))
    killer.join()
    # The watcher is Ray Train's on clusters, whose nodes may be taken away.
    assert actors - before - {"ray::PreemptionWatcher"} == {"ray::LeanTrainController", "ray::LeanTrainWorker"}
    assert artifact.counts["attempts"] == 2
    record_property(RECOVERY, first_step_s(all_records(artifact.uri, "train"), since=died[0], attempt=2))
    ours, theirs = (records(directory, "train") for directory in (artifact.uri, str(tmp_path / "straight")))
    assert {step: record["loss"] for step, record in ours.items()} == {s: r["loss"] for s, r in theirs.items()}
    assert len(ours) == STEPS
    assert _weights(artifact.uri) == _weights(str(tmp_path / "straight"))


def _weights(directory: str) -> str:
    return sha256_file(list_checkpoints(directory + "/checkpoints")[-1].uri + "/model.safetensors")


def _kill_controller(root: Path, died: list[float], actors: set[str]) -> None:
    """Kill it by signal 9 some steps after the first checkpoint; note the actors that there are then."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        (path,) = [*root.glob("train-*/metrics.jsonl")] or [None]
        if path and f'"step": {EVERY + 4},' in path.read_text():
            break
        time.sleep(0.02)
    actors |= _actors()
    found = [child for child in psutil.Process().children(recursive=True) if "TrainController" in _title(child)]
    assert len(found) == 1
    found[0].kill()
    died.append(time.time())


def _actors() -> set[str]:
    """What the processes call themselves that Ray has started and that do something, without the method they are in."""
    titles = {_title(child).partition(".")[0] for child in psutil.Process().children(recursive=True)}
    return {title for title in titles if title.startswith("ray::") and "Agent" not in title} - {"ray::IDLE"}


def _title(process: psutil.Process) -> str:
    try:
        return "".join(process.cmdline()[:1]).strip()
    except psutil.Error:
        return ""
