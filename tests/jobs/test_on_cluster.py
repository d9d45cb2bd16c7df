"""Jobs on a real cluster with token authentication, by Ray's own client and by ours: log, exit code, shadowing."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from rayllm.core.errors import SetupError
from rayllm.pipelines.submission import authorization, probe

pytestmark = pytest.mark.ray

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TOKEN = "rayllm-tests-0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Cluster:
    """A head node of its own: address of the dashboard, and the environment that reaches it."""

    address: str
    environment: dict[str, str]

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """``ray start --head`` in a process group of its own, on free ports; other clusters here are left alone."""
    # Ray's sockets lie below this directory and their paths may have 107 characters at most, so not tmp_path.
    home = tempfile.mkdtemp(prefix="rl-")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = inherited | {
        "HOME": home,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    port, dashboard, client, agent = _free_ports(4)
    options = [f"--port={port}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    options += [f"--dashboard-agent-listen-port={agent}", "--node-ip-address=127.0.0.1", f"--temp-dir={home}/r"]
    command = [
        str(BIN / "ray"),
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        "--object-store-memory=100000000",
        *options,
    ]
    with open(f"{home}/log", "w") as log:
        head = subprocess.Popen(command, env=environment, start_new_session=True, stdout=log, stderr=log)
    # Our client adds the token by itself; a bare `ray job submit` does with the mode set, as the docs say.
    try:
        _wait_for(f"http://127.0.0.1:{dashboard}", head, Path(home, "log"))
        yield Cluster(f"http://127.0.0.1:{dashboard}", environment)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(home, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _wait_for(address: str, head: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        while True:
            with contextlib.suppress(SetupError):
                probe(address, authorization())
                return
            assert head.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


OURS = """
import sys
from pathlib import Path
from rayllm.commands.submit import pack
from rayllm.pipelines.submission import JobCluster
cluster = JobCluster(sys.argv[1])
job = cluster.submit(sys.argv[2], pack(Path("."), Path(sys.argv[3])), metadata={})
sys.exit(cluster.follow(job, sys.stdout.write))
"""


def test_logs_and_exit_codes_come_back_from_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "rayllm").mkdir(parents=True)
    (project / "rayllm" / "__init__.py").write_text("UPLOADED = True\n")
    (project / "jobs").mkdir()
    (project / "jobs" / "end.py").write_text(
        "import sys, rayllm\nprint('uploaded:', hasattr(rayllm, 'UPLOADED'))\nsys.exit(int(sys.argv[1]))\n"
    )

    def plain(code: int) -> subprocess.CompletedProcess[str]:
        submit = [str(BIN / "ray"), "job", "submit", "--address", cluster.address, "--working-dir", "."]
        return cluster.run(*submit, "--", "python", "jobs/end.py", str(code), cwd=project)

    def ours(code: int) -> subprocess.CompletedProcess[str]:
        package = str(tmp_path / f"{code}.zip")
        return cluster.run(
            sys.executable, "-c", OURS, cluster.address, f"python jobs/end.py {code}", package, cwd=project
        )

    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(plain, 0), pool.submit(plain, 3), pool.submit(ours, 0), pool.submit(ours, 75)]
        results = [run.result() for run in runs]
    # Ray's own client knows only success and failure; ours passes the code on.
    assert [result.returncode for result in results] == [0, 1, 0, 75], [r.stdout + r.stderr for r in results]
    assert all("uploaded: True" in result.stdout for result in results)


RUN = """
name: on-cluster
storage: {storage}
sources:
  math: {{kind: synthetic_math, documents: 60}}
train: {{max_steps: 1}}
"""


def test_a_stage_runs_as_a_job_by_either_client(cluster: Cluster, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(REPO / "jobs", project / "jobs")
    for name in ("plain", "ours"):
        (project / f"{name}.yaml").write_text(RUN.format(storage=tmp_path / name))
    submit = [str(BIN / "ray"), "job", "submit", "--address", cluster.address, "--working-dir", "."]
    ours = [str(BIN / "rayllm"), "submit", "ours.yaml", "--verb", "prepare", "--address", cluster.address]
    missing = ["sources.gone={kind: jsonl, path: /not/there/*.jsonl}", f"storage={tmp_path / 'failed'}"]
    commands = [[*submit, "--", "python", "jobs/prepare.py", "plain.yaml"], ours, [*ours, *missing]]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda command: cluster.run(*command, cwd=project), commands))
    assert [result.returncode for result in done] == [0, 0, 1], [r.stdout + r.stderr for r in done]
    for name in ("plain", "ours"):
        assert len(list((tmp_path / name / "data").glob("prepare-*/manifest.json"))) == 1
    assert "/not/there/*.jsonl" in done[2].stdout
    assert "Traceback" not in done[2].stderr


def test_a_wrong_config_is_refused_before_anything_is_uploaded(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text("nam: x\n")
    done = cluster.run(str(BIN / "rayllm"), "submit", "f.yaml", "--address", cluster.address, cwd=tmp_path)
    assert done.returncode == 2
    assert "`nam` is not a setting. Did you mean `name`?" in done.stderr


def test_a_wrong_token_ends_with_code_3_and_without_a_traceback(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text(RUN.format(storage=tmp_path))
    refused = Cluster(cluster.address, cluster.environment | {"RAY_AUTH_TOKEN": "wrong" * 8})
    done = refused.run(str(BIN / "rayllm"), "submit", "f.yaml", "--address", cluster.address, cwd=tmp_path)
    assert done.returncode == 3
    assert "the cluster refuses this token" in done.stderr
    assert "Traceback" not in done.stderr
