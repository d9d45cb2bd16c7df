"""Write the lock files: exact versions of everything that the project and its development need.

pip resolves twice without installing: once for the runtime (with s3, which the images carry), once for development
on top of it. Only names and versions are written, no index and no URL, so that one lock serves the CPU and the CUDA
build of torch and any mirror. Run by ``make lock``; takes some minutes, because pip reads every package's metadata.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ("setuptools>=77", "wheel")
#: Raised one at a time and on purpose: what the code leans on was measured with these.
HELD = ("ray==2.60.0", "torch==2.13.0", "deepspeed==0.19.8")
#: Come with a CUDA build of torch, pinned by torch itself; in the lock they would keep the CPU build from installing.
OF_TORCH = re.compile(r"^(nvidia-|cuda-|triton$)")
HEADER = "# Made by `make lock`; not edited by hand.\n"


def resolve(*arguments: str) -> dict[str, str]:
    """Name to version of all that pip would install into an empty environment."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
        environment = {**os.environ, "DS_BUILD_OPS": "0"}
        subprocess.run([*command, "--report", str(report), *arguments], check=True, cwd=ROOT, env=environment)
        installed = json.loads(report.read_text())["install"]
    found = {_name(item["metadata"]["name"]): item["metadata"]["version"].partition("+")[0] for item in installed}
    return {name: found[name] for name in sorted(found) if name != "rayllm" and not OF_TORCH.match(name)}


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def write(path: Path, versions: dict[str, str], head: str = "") -> None:
    """Write ``name==version`` lines."""
    path.write_text(HEADER + head + "".join(f"{name}=={version}\n" for name, version in versions.items()))


def main() -> None:
    """Write both locks."""
    runtime = resolve(*BUILD, *HELD, "-e", ".[s3]")
    write(ROOT / "requirements.lock", runtime)
    everything = resolve("-c", "requirements.lock", *BUILD, *HELD, "-e", ".[dev,s3]")
    own = {name: version for name, version in everything.items() if name not in runtime}
    write(ROOT / "requirements-dev.lock", own, "-r requirements.lock\n")


if __name__ == "__main__":
    main()
