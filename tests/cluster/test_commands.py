"""Every command written in the cluster files, the image and the docs is one that its program takes.

A command is found in the text, its shell variables are filled in, and it is parsed, not run: ``rayllm`` by our own
parser, and its run file is checked with its settings; ``ray`` by Ray's; ``make`` by the names of its targets.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import ray.scripts.scripts

from rayllm.cli import parse
from rayllm.commands.submit import on_cluster

REPO = Path(__file__).resolve().parents[2]
PROGRAMS = ("rayllm", "ray", "python", "make")
SOURCES = [
    REPO / "Dockerfile",
    REPO / "README.md",
    REPO / "CONTRIBUTING.md",
    *sorted((REPO / "docs").glob("*.md")),
    *sorted(path for path in (REPO / "cluster").rglob("*") if path.is_file()),
    *sorted((REPO / "jobs").glob("*.py")),
]


def commands(text: str, *, prose: bool) -> list[str]:
    """The commands of a file; in prose (Markdown) only what stands in fenced blocks counts."""
    if prose:
        text = "\n".join(re.findall(r"^```(?:bash|sh|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r"\$\(\([^)]*\)\)|\$\{?\w+\}?|\"\$@\"", "1", text)
    found = []
    for line in text.splitlines():
        for part in re.split(r"&&|\|\||;|\||&$", line):
            part = re.sub(r"^[\s#$`\"\[-]*(?:entrypoint:|command:|RUN|--:)?\s*", "", part)
            part = re.sub(r"^(?:\w+=\S*\s+|srun .*?(?=ray ))*", "", part.split(" #")[0]).strip(" `")
            if re.match(rf"(?:{'|'.join(PROGRAMS)})\s+[\w.-]", part) and not re.match(r"ray: |python: ", part):
                found.append(part)
    return found


CASES = [
    pytest.param(command, id=f"{path.relative_to(REPO)}: {command}"[:100])
    for path in SOURCES
    if path.exists()
    for command in commands(path.read_text(), prose=path.suffix == ".md")
]


@pytest.mark.parametrize("command", CASES)
def test_the_command_is_one_that_its_program_takes(command: str) -> None:
    program, *arguments = shlex.split(command, comments=True)
    if arguments[0] == "-m" and arguments[1] == "rayllm.cli":
        program, arguments = "rayllm", arguments[2:]
    elif program == "python" and arguments[0].startswith("jobs/"):
        assert (REPO / arguments[0]).is_file()
        program, arguments = "rayllm", on_cluster(Path(arguments[0]).stem, arguments[1:])
    CHECKS[program](arguments)


def _check_rayllm(arguments: list[str]) -> None:
    args = parse(arguments)
    file = getattr(args, "file", None)
    if file and file not in ("1", "FILE"):
        from rayllm.pipelines.run_config import load_run

        load_run(str(REPO / file.removeprefix("/home/ray/rayllm/")), args.overrides)


def _check_ray(arguments: list[str]) -> None:
    group = ray.scripts.scripts.cli
    name, *rest = arguments
    if name == "job":
        from ray.dashboard.modules.job.cli import job_cli_group as group

        name, *rest = rest
    command = group.commands[name]
    context = command.make_context(name, [*rest], resilient_parsing=False)
    if "entrypoint" in context.params:
        _check_job(list(context.params["entrypoint"]))


def _check_job(entrypoint: list[str]) -> None:
    test_the_command_is_one_that_its_program_takes(shlex.join(entrypoint))


def _check_python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "pip"]:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *_without_work(arguments[2:])], capture_output=True, text=True
        )
        assert "no such option" not in done.stderr, done.stderr
    else:
        assert arguments[0] in ("-c", "-m") or (REPO / arguments[0]).is_file()


def _without_work(arguments: list[str]) -> list[str]:
    return [*arguments, "--help"]


def _check_make(arguments: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE)
    assert all(argument in targets for argument in arguments if "=" not in argument)


CHECKS = {"rayllm": _check_rayllm, "ray": _check_ray, "python": _check_python, "make": _check_make}


def test_commands_are_found_at_all() -> None:
    found = "\n".join(case.id or "" for case in CASES)
    assert "rayllm.sbatch: ray start --head" in found
    assert "rayjob.yaml: python -m rayllm.cli run" in found
    assert "compose.yaml: ray start --block --address=head:6379" in found
    assert "aws.yaml: ray start --head --port=6379" in found


@pytest.mark.slow
def test_the_pip_commands_of_the_image_work_in_a_clean_directory(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    environment = {"HOME": str(tmp_path), "PATH": f"{tmp_path / 'venv' / 'bin'}:/usr/bin:/bin", "DS_BUILD_OPS": "0"}
    text = (REPO / "Dockerfile").read_text()
    for line in re.findall(r"^COPY --chown=\S+ (.+) \S+$", text, re.MULTILINE):
        subprocess.run(["cp", "-r", *(str(REPO / name) for name in line.split()), str(tmp_path)], check=True)
    for command in re.findall(r"^RUN (.*pip.*)$", text, re.MULTILINE):
        subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=_pip_settings() | environment, check=True)
    done = subprocess.run(["rayllm", "doctor"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _pip_settings() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
