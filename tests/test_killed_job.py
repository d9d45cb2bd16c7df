"""A training that is killed with all its processes, or asked to stop by a person or a scheduler, loses no bit."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_table import RECOVERY
from own_ray import OwnRay, own_ray, wait_until
from ranks import run_ranks
from recovery import first_step_s
from straight_run import straight_run
from tiny_run import write_run

from rayllm.cli import main
from rayllm.core.artifact import read_artifact
from rayllm.core.checkpoint import list_checkpoints, verify_checkpoint
from rayllm.pipelines import ray_runtime

pytestmark = pytest.mark.ray

STEPS, EVERY = 80, 20
#: Each step takes at least so long that a signal meets the training in the middle on any machine.
SLOW = {"RAYLLM_ALLOW_FAULTS": "1", "RAYLLM_FAULT": "step=slow"}


def _write_run(root: Path) -> Path:
    return write_run(
        root,
        str(root / "runs"),
        max_steps=STEPS,
        checkpoint={"every_steps": EVERY},
        validation={"every_steps": 4 * EVERY, "max_tokens": 1024},
    )


@pytest.mark.fault("P3", "the whole job killed, Ray's own record torn", "the same command goes on; the same bits")
@pytest.mark.timeout(600)  # three whole jobs, each with a Ray of its own
def test_a_kill_and_an_interrupt_cost_no_bit(tmp_path: Path, record_property: Callable[[str, float], None]) -> None:
    file = _write_run(tmp_path)
    with own_ray(**SLOW) as ray:
        killed = ray.start("train", str(file))
        wait_until(lambda: _last_step(tmp_path) >= EVERY + 10, killed)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.communicate()
        assert _gone(ray, seconds=20), [process.cmdline() for process in ray.processes()]
        directory = str(_directory(tmp_path))
        saved = list_checkpoints(directory + "/checkpoints")
        for checkpoint in saved:
            verify_checkpoint(checkpoint.uri, deep=True)
        # Ray Train's own record: torn, it would keep Ray Train from starting.
        Path(directory, "checkpoints", "checkpoint_manager_snapshot.json").write_text('{"torn')
        died = time.time()

        interrupted = ray.start("train", str(file))
        wait_until(lambda: _last_step(tmp_path, attempt=2) >= EVERY + 30, interrupted)
        os.killpg(interrupted.pid, signal.SIGINT)  # As a terminal sends Ctrl-C: to every process of the group.
        _, errors = interrupted.communicate(timeout=60)
        _assert_saved(interrupted.returncode, errors, directory)
        assert f"resumed from {saved[-1].uri} at step {saved[-1].step}" in _events(directory)
        record_property(RECOVERY, first_step_s(_records(directory, "train"), since=died, attempt=2))

        last = ray.run("train", str(file), RAYLLM_ALLOW_FAULTS="0")
        assert last.returncode == 0, last.stderr
        assert _gone(ray, seconds=20), [process.cmdline() for process in ray.processes()]

    artifact = read_artifact(directory)
    artifact.verify(deep=True)
    assert artifact.counts["attempts"] == 3
    straight = str(tmp_path / "straight")
    run_ranks(straight_run, 2, str(file), straight)
    assert list(_losses(directory)) == list(range(1, STEPS + 1))
    assert _losses(directory) == _losses(straight)
    assert _weights(directory) == _weights(straight)


@pytest.mark.fault("P3", "SIGTERM in the middle of a step", "saved after the step, exit code 75")
def test_a_scheduler_that_terminates_gets_a_checkpoint_and_code_75(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _write_run(tmp_path)
    monkeypatch.setattr(ray_runtime, "shutdown", lambda: None)
    for name, value in SLOW.items():
        monkeypatch.setenv(name, value)

    def terminate() -> None:
        if _within(120, lambda: _last_step(tmp_path) > 0):
            os.kill(os.getpid(), signal.SIGTERM)

    scheduler = threading.Thread(target=terminate)
    before = signal.getsignal(signal.SIGTERM)
    scheduler.start()
    exit_code = main(["train", str(file)])
    scheduler.join()
    directory = str(_directory(tmp_path))
    _assert_saved(exit_code, capsys.readouterr().err, directory)
    assert max(_losses(directory)) < STEPS
    assert signal.getsignal(signal.SIGTERM) is before


def _assert_saved(exit_code: int, errors: str, directory: str) -> None:
    """The command has said clearly that it has saved, and the checkpoint is there and whole."""
    assert exit_code == 75, errors
    assert "stopping after this step and saving" in errors
    assert "training was stopped and has saved a checkpoint" in errors
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    last = list_checkpoints(directory + "/checkpoints")[-1]
    verify_checkpoint(last.uri, deep=True)
    assert last.step == _records(directory, "train")[-1]["step"]
    assert not Path(directory, "manifest.json").exists()


def _gone(ray: OwnRay, *, seconds: float) -> bool:
    """Whether every process of a run ends by itself."""
    return _within(seconds, lambda: not ray.processes())


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return met


def _directory(root: Path) -> Path | None:
    return next((root / "runs" / "tiny").glob("train-*"), None)


def _last_step(root: Path, attempt: int = 1) -> int:
    directory = _directory(root)
    if directory is None or not (directory / "metrics.jsonl").exists():
        return 0
    steps = [record["step"] for record in _records(str(directory), "train") if record["attempt"] == attempt]
    return max(steps, default=0)


def _records(directory: str, kind: str) -> list[dict[str, Any]]:
    """Whole lines of a kind; the last line of a file that is being written may be torn."""
    lines = Path(directory, "metrics.jsonl").read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record for record in records if record["kind"] == kind]


def _losses(directory: str) -> dict[int, float]:
    found = sorted(_records(directory, "train"), key=lambda record: (record["step"], record["attempt"]))
    return {record["step"]: record["loss"] for record in found}


def _events(directory: str) -> list[str]:
    return [record["message"] for record in _records(directory, "event")]


def _weights(directory: str) -> bytes:
    return Path(list_checkpoints(directory + "/checkpoints")[-1].uri, "model.safetensors").read_bytes()
