"""The Slurm script, run for real with a stand-in for Slurm: what it starts, and what it does when it is stopped."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "slurm" / "rayllm.sbatch"
STANDINS = {
    "srun": 'echo "srun $*" >> "$LOG"',
    "ray": 'echo "ray $*" >> "$LOG"; if [ "$1" = status ]; then cat "$NODES"; fi',
    "scontrol": 'if [ "$1" = show ]; then printf "node1\\nnode2\\n"; else echo "scontrol $*" >> "$LOG"; fi',
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """An environment with two nodes; ``rayllm`` is to be added by the test."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "nodes").write_text("Active:\n 1 node_a\n 1 node_b\n")
    for name, body in STANDINS.items():
        _program(tmp_path, name, body)
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "LOG": str(tmp_path / "log"),
        "NODES": str(tmp_path / "nodes"),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "4",
    }


def _program(directory: Path, name: str, body: str) -> None:
    path = directory / "bin" / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def test_a_head_and_its_workers_are_started_and_the_run_joins_them(slurm: dict[str, str], tmp_path: Path) -> None:
    _program(tmp_path, "rayllm", 'sleep 0.5; echo "rayllm $* token=${#RAY_AUTH_TOKEN}" >> "$LOG"')
    done = subprocess.run(["bash", SCRIPT, "f.yaml", "storage=/shared"], env=slurm, capture_output=True, timeout=30)
    log = (tmp_path / "log").read_text()
    assert done.returncode == 0
    assert "--nodelist=node1 ray start --head --block --port=8111" in log
    assert "--nodes=1 --ntasks=1 --exclude=node1 ray start --block --address=node1:8111" in log
    assert "rayllm run f.yaml ray.address=node1:8111 storage=/shared token=64" in log
    assert "scontrol" not in log


def test_a_failed_run_is_not_queued_again(slurm: dict[str, str], tmp_path: Path) -> None:
    _program(tmp_path, "rayllm", "sleep 0.5; exit 1")
    done = subprocess.run(["bash", SCRIPT, "f.yaml"], env=slurm, capture_output=True, timeout=30)
    assert done.returncode == 1
    assert "scontrol" not in (tmp_path / "log").read_text()


def test_a_stopped_run_may_save_and_is_queued_again(slurm: dict[str, str], tmp_path: Path) -> None:
    _program(
        tmp_path,
        "rayllm",
        'trap "sleep 0.3; echo saved >> $LOG; exit 75" TERM\ntouch $LOG.up\nwhile :; do sleep 0.1; done',
    )
    job = subprocess.Popen(["bash", SCRIPT, "f.yaml"], env=slurm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "log.up")
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 75
    log = (tmp_path / "log").read_text()
    assert log.index("saved") < log.index("scontrol requeue 4711")


def test_a_stage_that_cannot_save_is_queued_again_when_it_is_stopped(slurm: dict[str, str], tmp_path: Path) -> None:
    _program(tmp_path, "rayllm", "touch $LOG.up\nexec sleep 30")
    job = subprocess.Popen(["bash", SCRIPT, "f.yaml"], env=slurm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "log.up")
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 143
    assert "scontrol requeue 4711" in (tmp_path / "log").read_text()


def test_the_run_begins_when_all_nodes_have_come(slurm: dict[str, str], tmp_path: Path) -> None:
    _program(tmp_path, "rayllm", 'echo "rayllm $*" >> "$LOG"')
    nodes = tmp_path / "nodes"
    nodes.write_text("Active:\n 1 node_a\n")
    job = subprocess.Popen(["bash", SCRIPT, "f.yaml"], env=slurm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        if (tmp_path / "log").exists() and "ray status" in (tmp_path / "log").read_text():
            break
        time.sleep(0.1)
    assert "rayllm" not in (tmp_path / "log").read_text()
    nodes.write_text("Active:\n 1 node_a\n 1 node_b\n")
    assert job.wait(timeout=20) == 0
    assert "rayllm run f.yaml" in (tmp_path / "log").read_text()


def test_a_run_waits_five_minutes_for_its_nodes_however_long_a_look_takes(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    _program(tmp_path, "rayllm", 'echo "rayllm $*" >> "$LOG"')
    (tmp_path / "nodes").write_text("Active:\n 1 node_a\n")
    (tmp_path / "clock").write_text("sleep() { SECONDS=$((SECONDS + 100)); }\n")  # each round takes 100 seconds
    env = slurm | {"BASH_ENV": str(tmp_path / "clock")}
    assert subprocess.run(["bash", SCRIPT, "f.yaml"], env=env, capture_output=True, timeout=30).returncode == 0
    log = (tmp_path / "log").read_text()
    assert log.count("ray status") == 3
    assert "rayllm run f.yaml" in log


def test_a_job_that_is_stopped_before_its_head_is_up_is_queued_again(slurm: dict[str, str], tmp_path: Path) -> None:
    _program(tmp_path, "rayllm", "exec sleep 30")
    _program(tmp_path, "ray", 'touch "$LOG.up"; exit 1')
    job = subprocess.Popen(["bash", SCRIPT, "f.yaml"], env=slurm, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "log.up")
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == 143
    assert "scontrol requeue 4711" in (tmp_path / "log").read_text()


def wait_for(file: Path) -> None:
    for _ in range(100):
        if file.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{file} did not come")


def test_the_script_needs_a_run_file(slurm: dict[str, str]) -> None:
    done = subprocess.run(["bash", SCRIPT], env=slurm, capture_output=True, text=True, timeout=30)
    assert done.returncode != 0
    assert "usage" in done.stderr
