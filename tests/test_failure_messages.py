"""What a person reads when a training fails: the cause first, where it happened, where the rest is; the exit code.

Each failure is the real one, met by the real command with a Ray of its own, whose chatter would show.
"""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from finished_stages import finish_stages
from own_ray import OwnRay, own_ray, wait_until
from packing_fixture import texts_of
from tiny_run import write_run

from rayllm.pipelines.run_config import load_run

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SCREEN_LINES = 25
SLOW = "step=slow"


@pytest.fixture(scope="module")
def ray() -> Iterator[OwnRay]:
    with own_ray(RAYLLM_ALLOW_FAULTS="1") as found:
        yield found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A run whose data stages are done."""
    file = write_run(tmp_path, str(tmp_path / "runs"), max_steps=2000, workers={"count": 2, "max_failures": 0})
    texts = {domain: texts_of(domain, 100) for domain in ("code", "math")}
    splits = {domain: {"train": [each[20:]], "validation": [each[:20]]} for domain, each in texts.items()}
    finish_stages(load_run(str(file), []), splits)
    return file


def told(done: subprocess.CompletedProcess[str], code: int) -> list[str]:
    """The lines of the error, after checking that nothing buries it: it and its start fit on one screen."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    last_start = max((n for n, line in enumerate(lines) if re.search(r"attempt \d+: \d+ worker", line)), default=0)
    assert len(lines) - last_start <= SCREEN_LINES, done.stderr
    for noise in ("Traceback", "(raylet)", "(LeanTrainWorker", "(LeanTrainController", "core_worker"):
        assert noise not in done.stderr, done.stderr
    # A level of logging; SYSTEM_ERROR is Ray's word for a death.
    assert not re.search(r"\bERROR\b", done.stderr), done.stderr
    (start,) = (number for number, line in enumerate(lines) if line.startswith("error: "))
    return lines[start:]


def finish(process: "subprocess.Popen[str]") -> subprocess.CompletedProcess[str]:
    out, err = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_directory(root: Path) -> Path:
    return next((root / "runs" / "tiny").glob("train-*"))


def trains(root: Path) -> bool:
    files = list((root / "runs" / "tiny").glob("train-*/metrics.jsonl"))
    return bool(files) and '"kind": "train"' in files[0].read_text()


def test_an_exception_on_one_rank_is_told_with_its_place_and_its_trace(ray: OwnRay, file: Path, tmp_path: Path) -> None:
    error = told(ray.run("train", str(file), RAYLLM_FAULT="rank1:6=full_disk"), 1)
    assert error[0] == "error: training failed in attempt 1: rank 1: OSError: [Errno 28] No space left on device"
    frames = [line.removeprefix("  where: ").strip() for line in error[1:6]]
    assert re.match(r"rayllm/core/faults\.py:\d+ in fault$", frames[0])
    assert re.match(r"rayllm/train/\w+\.py:\d+ in ", frames[1])
    assert all(re.match(r"rayllm/train/\w+\.py:\d+ in ", frame) for frame in frames[2:4])
    assert re.match(r"rayllm/train/loop\.py:\d+ in \w+$", frames[4])
    trace = run_directory(tmp_path) / "failures" / "attempt-1.txt"
    assert "the full trace is in " + str(trace) in error[-1]
    assert "it goes on from step-00000004-a1" in error[-1]
    assert "rank 1:\nTraceback (most recent call last)" in trace.read_text()


@pytest.mark.slow
def test_a_killed_worker_is_told_by_its_rank_and_process(ray: OwnRay, file: Path) -> None:
    error = told(ray.run("train", str(file), RAYLLM_FAULT="rank1:6=kill"), 1)
    assert re.match(
        r"error: training failed in attempt 1: rank 1 \(process \d+ on \S+\) died without a word$", error[0]
    )
    assert "killed from outside" in error[1]


@pytest.mark.slow
def test_restarts_that_do_not_help_are_told_each_with_its_cause(ray: OwnRay, file: Path) -> None:
    done = ray.run("train", str(file), "train.workers.max_failures=1", RAYLLM_FAULT="rank1:2=full_disk")
    error = told(done, 1)
    assert "attempt 1 ended: rank 1: OSError" in done.stderr
    assert "attempt 2: 2 workers: rank 1: OSError" in done.stderr
    assert error[0].startswith("error: training failed in attempt 2: rank 1: OSError")
    assert any("1 restart did not help" in line for line in error)


@pytest.mark.slow
def test_a_dead_controller_is_told(ray: OwnRay, file: Path, tmp_path: Path) -> None:
    process = ray.start("train", str(file), RAYLLM_FAULT=SLOW)
    wait_until(lambda: trains(tmp_path), process, 150)
    for found in ray.processes():
        if "TrainController" in " ".join(found.cmdline()):
            found.kill()
    error = told(finish(process), 1)
    assert error[0] == "error: training failed in attempt 1: Ray Train ended without a result"
    assert "died" in error[1]


@pytest.mark.slow
def test_a_lost_cluster_is_told_soon(ray: OwnRay, file: Path, tmp_path: Path) -> None:
    process = ray.start("train", str(file), RAYLLM_FAULT=SLOW)
    wait_until(lambda: trains(tmp_path), process, 150)
    killed_at = time.monotonic()
    for found in ray.processes():
        if re.search("gcs_server|raylet/raylet", " ".join(found.cmdline())):
            found.kill()
    error = told(finish(process), 1)
    assert error[0] == "error: the Ray cluster was lost"
    assert "run the same command again" in error[-1]
    assert time.monotonic() - killed_at < 90


def test_too_few_cpus_are_told_before_the_first_stage(ray: OwnRay, tmp_path: Path) -> None:
    file = write_run(tmp_path, str(tmp_path / "runs"), workers={"count": 2, "cpus": 2})
    error = told(ray.run("run", str(file)), 3)
    assert error[0] == "error: training with 2 workers needs more than the cluster has"
    assert "it needs 4 CPU (there are 2)" in error[1]
    assert not (tmp_path / "runs").exists()
