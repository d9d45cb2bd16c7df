"""``rayllm doctor``: look at this machine for what runs need, and say how to mend what lacks.

In: nothing but the machine. Out: a table with a line for each check; exit code 3 if one of them would stop a run.
Ray, torch and DeepSpeed are imported in a process of their own, so that a broken one is a line of the table too.
"""

import argparse
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import Version

from rayllm.core import storage
from rayllm.core.errors import SetupError

IMPORT_TIMEOUT_S = 120
MIN_PYTHON = (3, 11)
MIN_MEMORY_BYTES = 2 << 30
MIN_DISK_BYTES = 5 << 30
#: Ray stops writing objects when the disk of its temporary directory is fuller than this.
MAX_DISK_FRAC = 0.95
#: Ray's object store lies in /dev/shm; with less, it falls back to a slow file on disk.
MIN_SHM_BYTES = 256 << 20
PORTS = {6379: "Ray's head node", 8265: "Ray's dashboard", 10001: "Ray's client server"}

Verdict = Literal["ok", "note", "fail"]


@dataclass(frozen=True)
class Finding:
    """What one check saw.

    Attributes:
        name: What was checked.
        verdict: ``fail`` stops runs, ``note`` is worth knowing.
        seen: What is there.
        fix: What to do; empty where nothing is to be done.
    """

    name: str
    verdict: Verdict
    seen: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "--storage", default="runs", help="directory or URI where artifacts will go (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 if runs can start here, else 3."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("", "check", "found", "what to do"):
        table.add_column(column, overflow="fold")
    colours = {"ok": "green", "note": "yellow", "fail": "red"}
    findings = [finding for check in checks(args.storage) for finding in check()]
    for finding in findings:
        colour = colours[finding.verdict]
        table.add_row(f"[{colour}]{finding.verdict}[/]", finding.name, finding.seen, finding.fix)
    Console().print(table)
    failed = [finding.name for finding in findings if finding.verdict == "fail"]
    return SetupError.exit_code if failed else 0


def checks(artifacts: str) -> list[Callable[[], list[Finding]]]:
    """All checks, in the order of the table."""
    return [
        check_python,
        check_torch,
        check_ray,
        check_deepspeed,
        check_memory,
        lambda: check_disk(artifacts),
        check_shared_memory,
        check_gpus,
        check_ports,
    ]


def check_python() -> list[Finding]:
    """Is Python new enough?"""
    seen = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro} at {sys.executable}"
    good = sys.version_info >= MIN_PYTHON
    return [Finding("python", "ok" if good else "fail", seen, "" if good else "install Python 3.11 or newer")]


def check_torch() -> list[Finding]:
    """Does torch import, and does its build match the GPUs?"""
    code = "import torch; print(torch.__version__, torch.version.cuda or 'cpu', torch.cuda.is_available())"
    answer, problem = _import(code)
    if problem:
        return [Finding("torch", "fail", problem, "make install")]
    version, build, usable = answer.split()
    kind = "CPU build" if build == "cpu" else f"CUDA {build} build"
    if _gpu_names() and usable != "True":
        fix = "install the CUDA build of the same version" if build == "cpu" else "update the NVIDIA driver"
        return [Finding("torch", "note", f"{version}, {kind}; the GPUs cannot be used", fix)]
    return [Finding("torch", "ok", f"{version}, {kind}")]


def check_ray() -> list[Finding]:
    """Does Ray import, with its job client and its trainers?"""
    answer, problem = _import("import ray, ray.train, ray.data, ray.job_submission; print(ray.__version__)")
    if problem:
        return [Finding("ray", "fail", problem, "make install")]
    wanted = _requirement("ray")
    fits = not wanted or wanted.specifier.contains(Version(answer))
    return [Finding("ray", "ok" if fits else "fail", answer, "" if fits else f"pip install '{wanted}'")]


def check_deepspeed() -> list[Finding]:
    """Does DeepSpeed import on a machine without any compiler?"""
    environment = {"PATH": str(Path(sys.executable).parent), "CUDA_HOME": ""}
    if not _gpu_names():
        environment["DS_ACCELERATOR"] = "cpu"
    answer, problem = _import("import deepspeed; print(deepspeed.__version__)", environment)
    if problem:
        fix = "make install (it installs DeepSpeed with DS_BUILD_OPS=0, as pure Python)"
        return [Finding("deepspeed", "fail", problem, fix)]
    return [Finding("deepspeed", "ok", f"{answer}, imports without a compiler")]


def check_memory() -> list[Finding]:
    """Is there memory for two small workers?"""
    import psutil

    free, total = psutil.virtual_memory().available, psutil.virtual_memory().total
    limit = _cgroup_limit()
    seen = f"{_gib(free)} free of {_gib(total)}, {os.cpu_count()} CPUs"
    seen += f"; this container may use {_gib(limit)}" if limit and limit < total else ""
    good = min(free, limit or free) >= MIN_MEMORY_BYTES
    fix = "" if good else f"free at least {_gib(MIN_MEMORY_BYTES)}, or raise the container's limit"
    return [Finding("memory", "ok" if good else "fail", seen, fix)]


def check_disk(artifacts: str) -> list[Finding]:
    """Is there room for artifacts, and for Ray's spilled objects?"""
    places = {"disk for Ray": Path(tempfile.gettempdir())}
    if storage.is_local(artifacts):
        places["disk for artifacts"] = storage.local_path(artifacts).expanduser()
    findings = []
    for name, path in places.items():
        there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
        usage = shutil.disk_usage(there)
        full = 1 - usage.free / usage.total
        good = usage.free >= MIN_DISK_BYTES and (name != "disk for Ray" or full < MAX_DISK_FRAC)
        fix = "" if good else f"keep {_gib(MIN_DISK_BYTES)} free; Ray also stops above {MAX_DISK_FRAC:.0%} full"
        seen = f"{_gib(usage.free)} free at {there}, {full:.0%} full"
        findings.append(Finding(name, "ok" if good else "fail", seen, fix))
    return findings


def check_shared_memory() -> list[Finding]:
    """Is /dev/shm large enough for Ray's object store?"""
    path = Path("/dev/shm")
    if not path.is_dir():
        return [Finding("shared memory", "note", "no /dev/shm on this system", "")]
    size = shutil.disk_usage(path).total
    good = size >= MIN_SHM_BYTES
    fix = "" if good else "start the container with --shm-size=2g (Compose: shm_size, Kubernetes: emptyDir of Memory)"
    return [Finding("shared memory", "ok" if good else "note", f"/dev/shm has {_gib(size)}", fix)]


def check_gpus() -> list[Finding]:
    """Which GPUs does the driver show?"""
    names = _gpu_names()
    seen = ", ".join(names) if names else "none; runs use the CPUs"
    return [Finding("GPUs", "ok", seen)]


def check_ports() -> list[Finding]:
    """Which of the ports of a head node are taken?"""
    taken = [f"{port} ({use})" for port, use in PORTS.items() if _is_taken(port)]
    if not taken:
        return [Finding("ports", "ok", f"{', '.join(map(str, PORTS))} are free")]
    fix = "nothing for local runs; `ray start --head` here needs other ports"
    return [Finding("ports", "note", f"in use: {', '.join(taken)}", fix)]


def _import(code: str, environment: dict[str, str] | None = None) -> tuple[str, str]:
    """Run an import in a process of its own: what it printed, and the last line of what went wrong."""
    command = [sys.executable, "-c", code]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, env={**os.environ, **(environment or {})}
        )
    except subprocess.TimeoutExpired:
        return "", f"the import takes more than {IMPORT_TIMEOUT_S} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return "", lines[-1] if lines else f"the import ended with code {done.returncode}"
    return done.stdout.strip().splitlines()[-1], ""


def _requirement(name: str) -> Requirement | None:
    found = map(Requirement, importlib.metadata.requires("rayllm") or [])
    return next((item for item in found if item.name == name and not item.marker), None)


def _gpu_names() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    done = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _cgroup_limit() -> int:
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text().strip() if path.is_file() else "max"
    return int(text) if text.isdigit() else 0


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.1f} GiB"
