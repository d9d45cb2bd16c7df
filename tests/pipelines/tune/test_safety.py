"""Sweeps as processes of their own, on clusters of their own: what is killed and what comes back."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from clusters import local_nodes
from fault_table import RECOVERY
from own_ray import OwnRay, own_ray, wait_until
from packing_fixture import make_packed

SUPPORT = Path(__file__).resolve().parents[2] / "support"
REPO = SUPPORT.parents[1]


def start(driver: str, environment: dict[str, str], *arguments: str) -> "subprocess.Popen[str]":
    """Start a script of ``tests/support``."""
    paths = {"PYTHONPATH": f"{REPO}:{SUPPORT}"}
    command = [sys.executable, str(SUPPORT / driver), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment | paths, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def ledger_lines(root: Path) -> int:
    """How many trials have ended."""
    file = root / "sweep" / "trials.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.fault("T4", "a node is killed", "its trial is tried once more elsewhere; the other CPUs stay in use")
@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_outlives_a_node(tmp_path, monkeypatch, record_property):
    packed = make_packed(tmp_path / "packed")
    with local_nodes(monkeypatch) as nodes:
        nodes.add("a")
        process = start("sweep_driver.py", nodes.ray.environment, nodes.address, packed.uri, str(tmp_path), "6")
        wait_until(lambda: ledger_lines(tmp_path) >= 2, process, 200)
        nodes.lose("a")
        lost = time.time()
        wait_until((tmp_path / "done.json").exists, process, 200)
        process.communicate(timeout=60)
    done = json.loads((tmp_path / "done.json").read_text())
    assert sorted(trial for trial, _, _ in done["ended"]) == list(range(6))
    assert {status for _, status, _ in done["ended"]} == {"finished"}
    assert done["free_s"] < 10
    record_property(RECOVERY, round(done["at"] - lost, 1))


@pytest.mark.fault("T5", "Ctrl-C at the keyboard", "trials save and end; every CPU and GPU is back")
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("dashboard", ["dashboard", "no-dashboard"])
def test_a_keyboard_interrupt_gives_everything_back(tmp_path, dashboard, record_property):
    packed = make_packed(tmp_path / "packed")
    with own_ray(RAY_AUTH_MODE="disabled") as ray:
        process = start("sweep_driver.py", ray.environment, "local", packed.uri, str(tmp_path), "9", dashboard)
        wait_until(lambda: ledger_lines(tmp_path) >= 2, process, 200)
        process.send_signal(signal.SIGINT)
        pressed = time.time()
        wait_until((tmp_path / "done.json").exists, process, 60)
        process.communicate(timeout=60)
        done = json.loads((tmp_path / "done.json").read_text())
        assert "not finished: trial-00" in done["ended"][0][1]
        record_property(RECOVERY, round(done["at"] - pressed, 1))
        assert done["at"] - pressed < 20


@pytest.mark.fault("T6", "trials of two workers come to rungs", "workers return, their placement group is back")
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)  # three starts of two workers each: 50 to 100 s each where forty processes share two cores
@pytest.mark.parametrize("dashboard", ["dashboard", "no-dashboard"])
def test_stopped_trials_of_several_workers_never_hold_up_the_next(tmp_path, dashboard, record_property):
    packed = make_packed(tmp_path / "packed")
    with own_ray(RAY_AUTH_MODE="disabled") as ray:
        process = start("nested_driver.py", ray.environment, packed.uri, str(tmp_path), dashboard)
        wait_until((tmp_path / "done.json").exists, process, 540)
        process.communicate(timeout=60)
    done = json.loads((tmp_path / "done.json").read_text())
    assert [status for _, status, _ in done["ended"]].count("finished") >= 1
    assert [status for _, status, _ in done["ended"]].count("stopped") >= 1
    assert {error for _, _, error in done["ended"]} == {""}
    files = (tmp_path / "sweep" / "trials").glob("*/metrics.jsonl")
    steps = sorted(max(record["step"] for record in train_records(file)) for file in files)
    finished = [status for _, status, _ in done["ended"]].count("finished")
    assert steps[-finished:] == [40] * finished
    assert set(steps[:-finished]) <= {6, 11, 21}  # workers stand still at a rung; to stop they take a step more
    record_property(RECOVERY, round(done["free_s"], 1))
    assert done["free_s"] < 10


@pytest.mark.fault("T7", "the process of a trial of two workers is killed", "its workers' CPUs are back, it goes on")
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("dashboard", ["dashboard", "no-dashboard"])
def test_the_workers_of_a_killed_trial_hold_nobody_up(tmp_path, dashboard, record_property):
    packed = make_packed(tmp_path / "packed")
    with own_ray(RAY_AUTH_MODE="disabled") as ray:
        process = start("nested_driver.py", ray.environment, packed.uri, str(tmp_path), dashboard, "one")
        wait_until(lambda: any(record["step"] > 40 for record in steps_of(tmp_path)), process, 300)
        found: list[psutil.Process] = []  # a process that changes its title just then is not seen
        wait_until(lambda: bool(found.extend(trainables(ray)) or found), process, 60)
        killed = time.time()
        found[0].kill()
        wait_until((tmp_path / "done.json").exists, process, 300)
        process.communicate(timeout=60)
    done = json.loads((tmp_path / "done.json").read_text())
    assert done["ended"] == [[0, "finished", ""]]
    assert done["free_s"] < 10
    again = [record for record in steps_of(tmp_path) if record["attempt"] == 2]
    assert again[0]["step"] > 1  # from its checkpoint
    record_property(RECOVERY, round(again[0]["time"] - killed, 1))


def trainables(ray: OwnRay) -> list[psutil.Process]:
    """The processes that drive trials."""
    return [one for one in ray.processes() if one.name().startswith("ray::") and "Trainable" in one.cmdline()[0]]


def steps_of(root: Path) -> list[dict[str, Any]]:
    """What the only trial of a sweep has recorded of its steps."""
    files = list((root / "sweep" / "trials").glob("*/metrics.jsonl"))
    return train_records(files[0]) if files else []


def train_records(file: Path) -> list[dict[str, Any]]:
    """The records of steps in a trial's metrics."""
    return [record for record in map(json.loads, file.read_text().splitlines()) if record["kind"] == "train"]
