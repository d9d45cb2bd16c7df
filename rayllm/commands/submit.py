"""``rayllm submit``: run a file on a cluster, as ``ray job submit`` does, with the care that it leaves to the user.

In: a run file and the address of a cluster's dashboard. What is done: the config is checked here first, the working
directory is packed (what ``.gitignore`` and ``.rayignore`` name stays behind), the token is found, the log followed.
Out: the exit code of the command on the cluster.
"""

import argparse
import os
import shlex
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rayllm.core import storage
from rayllm.core.errors import ConfigError, SetupError
from rayllm.core.log import get_logger
from rayllm.pipelines import STAGES

logger = get_logger(__name__)

MAX_PACKAGE_BYTES = 20 * 10**6
STOPPED_FOLLOWING = 130
#: Stays behind whatever the ignore files say: environments, results, histories, caches.
ALWAYS_EXCLUDED = (
    ".git/",
    ".venv/",
    "venv/",
    "/runs/",
    "/data/",
    "/wandb/",
    "/build/",
    "/dist/",
    "__pycache__/",
    ".*_cache/",
    ".hypothesis/",
    "*.egg-info/",
)
IGNORE_FILES = (".gitignore", ".rayignore")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("file", help="run file (YAML), below the working directory")
    parser.add_argument("overrides", nargs="*", help="settings such as train.optimizer.lr=3e-4")
    parser.add_argument("--verb", default="run", choices=["run", *STAGES], help="what to run (default: %(default)s)")
    parser.add_argument(
        "--address", help="URL of the cluster's dashboard (default: RAY_API_SERVER_ADDRESS or this machine)"
    )
    parser.add_argument("--working-dir", default=".", help="directory to upload (default: this one)")
    parser.add_argument("--force", action="store_true", help="make the artifacts again")
    parser.add_argument("--no-wait", action="store_true", help="return when the job is accepted")


def run(args: argparse.Namespace) -> int:
    """Submit, follow, and end with the job's exit code."""
    from rayllm.pipelines.run_config import load_run
    from rayllm.pipelines.submission import DEFAULT_ADDRESS, JobCluster

    root = Path(args.working_dir).resolve()
    file = _relative(Path(args.file), root)
    arguments = on_cluster(args.verb, [args.file, *args.overrides])
    config = load_run(args.file, arguments[2:])
    if storage.is_local(config.storage) and not Path(config.storage).expanduser().is_absolute():
        logger.warning(
            "storage=%s is relative: on the cluster it lies in the job's own copy of the working directory, which Ray "
            "deletes some time after the job; set storage= to an absolute path on a shared disk, or to s3://…",
            config.storage,
        )
    cluster = JobCluster(args.address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS)
    command = shlex.join(
        ["python", "-m", "rayllm.cli", args.verb, file, *arguments[2:], *(["--force"] if args.force else [])]
    )
    with tempfile.TemporaryDirectory() as directory:
        package = pack(root, Path(directory) / "working_dir.zip")
        job_id = cluster.submit(command, package, metadata={"rayllm_run": config.name, "rayllm_verb": args.verb})
    logger.info("job %s at %s: %s", job_id, cluster.address, command)
    if args.no_wait:
        sys.stdout.write(f"{job_id}\n")
        return 0
    try:
        return cluster.follow(job_id, _write)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\nstopped following; job {job_id} goes on\n"
            f"  follow: ray job logs {job_id} --follow --address {cluster.address}\n"
            f"  stop:   ray job stop {job_id} --address {cluster.address}\n"
        )
        return STOPPED_FOLLOWING


def on_cluster(verb: str, arguments: Sequence[str]) -> list[str]:
    """The command line of a verb inside a job: it joins the job's cluster unless the user says otherwise.

    Args:
        verb: A stage, or ``run``.
        arguments: What follows the verb: the run file first, then overrides and options.
    """
    return [verb, *arguments[:1], "ray.address=auto", *arguments[1:]] if arguments else [verb]


def pack(root: Path, target: Path) -> Path:
    """Zip a working directory for upload; equal trees give equal bytes, which the cluster then has already.

    Args:
        root: Directory to pack.
        target: The zip to write.

    Raises:
        SetupError: If more than 20 MB would be uploaded; the largest files are named.
    """
    files = sorted(select_files(root))
    sizes = {path: (root / path).stat().st_size for path in files}
    total = sum(sizes.values())
    if total > MAX_PACKAGE_BYTES:
        largest = sorted(files, key=lambda path: -sizes[path])[:5]
        raise SetupError(
            f"the working directory has {total / 1e6:.1f} MB; at most {MAX_PACKAGE_BYTES / 1e6:.0f} MB are uploaded",
            where=str(root),
            why="the largest files are " + ", ".join(f"{path} ({sizes[path] / 1e6:.1f} MB)" for path in largest),
            fix="name them in .gitignore or .rayignore, and give data to the run by a URI in `sources:`",
        )
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            entry = zipfile.ZipInfo(path)
            entry.external_attr = ((root / path).stat().st_mode & 0o777) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (root / path).read_bytes())
    logger.info("packed %d files, %.1f MB", len(files), total / 1e6)
    return target


def select_files(root: Path) -> Iterator[str]:
    """Paths below a directory, relative to it, that are neither excluded always nor by an ignore file on the way.

    Excluded directories are not entered, so a large ``data/`` costs nothing. Links to directories are not followed.
    """
    from pathspec import GitIgnoreSpec

    def walk(directory: Path, rules: list[tuple[Path, GitIgnoreSpec]]) -> Iterator[str]:
        lines = [line for name in IGNORE_FILES for line in _lines(directory / name)]
        rules = [*rules, (directory, GitIgnoreSpec.from_lines(lines))] if lines else rules
        for path in sorted(directory.iterdir()):
            is_directory = path.is_dir() and not path.is_symlink()
            ending = "/" if is_directory else ""
            if any(spec.match_file(f"{path.relative_to(base).as_posix()}{ending}") for base, spec in rules):
                continue
            if is_directory:
                yield from walk(path, rules)
            elif path.is_file():
                yield path.relative_to(root).as_posix()

    return walk(root, [(root, GitIgnoreSpec.from_lines(ALWAYS_EXCLUDED))])


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


def _relative(file: Path, root: Path) -> str:
    try:
        return file.resolve().relative_to(root).as_posix()
    except ValueError as error:
        raise ConfigError(
            "the run file lies outside of the directory that is uploaded",
            where=str(file),
            why=f"the cluster gets only {root}",
            fix="move it there, or name another --working-dir",
        ) from error


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
