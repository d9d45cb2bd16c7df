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
    killer = threading.Thread(target=_kill_controller, args=(tmp_path / "ray", died))
    killer.start()
    artifact, _ = run_task(Task("train", train.run, config, {"pack": packed}, in_place=True), str(tmp_path / "ray"))
    killer.join()
    assert artifact.counts["attempts"] == 2
    record_property(RECOVERY, first_step_s(all_records(artifact.uri, "train"), since=died[0], attempt=2))
    ours, theirs = (records(directory, "train") for directory in (artifact.uri, str(tmp_path / "straight")))
    assert {step: record["loss"] for step, record in ours.items()} == {s: r["loss"] for s, r in theirs.items()}
    assert len(ours) == STEPS
    assert _weights(artifact.uri) == _weights(str(tmp_path / "straight"))


def _weights(directory: str) -> str:
    return sha256_file(list_checkpoints(directory + "/checkpoints")[-1].uri + "/model.safetensors")


def _kill_controller(root: Path, died: list[float]) -> None:
    """Kill it by signal 9 some steps after the first checkpoint."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        (path,) = [*root.glob("train-*/metrics.jsonl")] or [None]
        if path and f'"step": {EVERY + 4},' in path.read_text():
            break
        time.sleep(0.02)
    found = [child for child in psutil.Process().children(recursive=True) if _is_controller(child)]
    assert len(found) == 1
    found[0].kill()
    died.append(time.time())


def _is_controller(process: psutil.Process) -> bool:
    try:
        return "TrainController" in " ".join(process.cmdline())
    except psutil.Error:
        return False
