"""Commands in processes of their own, each with its own local Ray, home and token; nothing of it outlives the test."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import psutil

BIN = Path(sys.executable).parent
#: Carried by every process that a command starts, so that none is missed and none of others is touched.
MARK = "RAYLLM_TEST_MARK"


class OwnRay:
    """Starts ``rayllm`` in process groups of their own.

    Args:
        home: The user's home, Ray's directory in it. Its path must be short: Ray's sockets lie below it.
        **environment: More variables for every command.
    """

    def __init__(self, home: Path, **environment: str) -> None:
        self.home, self._mark = home, uuid.uuid4().hex
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RAYLLM_"))}
        self.environment = inherited | {
            "HOME": str(home),
            "RAY_TMPDIR": str(home / "r"),
            "RAY_worker_niceness": "0",  # by default, workers wait for whatever else computes on the machine
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": "1",
            "WANDB_MODE": "offline",
            MARK: self._mark,
            **environment,
        }

    def start(self, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        """Start ``rayllm`` with arguments; its output goes to pipes."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``rayllm`` with arguments."""
        return [str(BIN / "rayllm"), *arguments]

    def start_into(self, output: IO[bytes], *arguments: str) -> "subprocess.Popen[bytes]":
        """Start ``rayllm`` with arguments; what it says goes to a file, so that nobody need read it meanwhile."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``rayllm`` with arguments to its end."""
        process = self.start(*arguments, **environment)
        out, err = process.communicate(timeout=280)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def processes(self) -> list[psutil.Process]:
        """Everything alive that a command of this home has started, however it was detached since."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def close(self) -> None:
        """End what is left."""
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def own_ray(**environment: str) -> Iterator[OwnRay]:
    """An ``OwnRay`` in a temporary home."""
    home = Path(tempfile.mkdtemp(prefix="rl-"))
    (home / "r").mkdir()
    ray = OwnRay(home, **environment)
    try:
        yield ray
    finally:
        ray.close()
        shutil.rmtree(home, ignore_errors=True)


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]", timeout_s: float = 90) -> None:
    """Wait for a condition while a process runs; what the process wrote is told when it ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"waited in vain; exit code {process.poll()}\n{process.communicate()[1]}")
        time.sleep(0.05)
