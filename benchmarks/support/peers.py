"""Other tools to measure against, each pinned in an environment of its own, and what every benchmark prints.

In: ``benchmarks/peers/<name>.lock`` with exact versions. Out: an interpreter that has them, made once in ``.peers/``.
"""

import hashlib
import os
import platform
import statistics
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def peer_python(name: str) -> str:
    """The interpreter of a peer's environment, which is made if it is not there or its lock has changed."""
    lock = REPO / "benchmarks" / "peers" / f"{name}.lock"
    directory = REPO / ".peers" / name
    made, python = directory / "made-from", directory / "bin" / "python"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not made.exists() or made.read_text() != wanted:
        venv.EnvBuilder(with_pip=True, clear=True).create(directory)
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", "-r", str(lock)]
        subprocess.run(install, check=True)
        made.write_text(wanted)
    return str(python)


def alternate(sides: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Measure the sides in turn, so that a busy machine slows them alike; a list of times for each side."""
    times: list[list[float]] = [[] for _ in sides]
    for number in range(rounds):
        order = range(len(sides)) if number % 2 == 0 else reversed(range(len(sides)))
        for index in order:
            times[index].append(sides[index]())
    return times


def median_ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def describe_machine() -> str:
    """One line: processor, cores, load, Python."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return f"{model}, {os.cpu_count()} cores, load {load}, Python {sys.version.split()[0]}"
