"""The Python files and descriptions of installed packages, found by their metadata and never imported."""

import importlib.metadata
import os
import re
import sysconfig
from fnmatch import fnmatch
from pathlib import Path

from rayllm.corpus.documents import FileRef

#: Names of directories whose docstrings are about tests, generated, or another package's copy.
_SKIPPED_PARTS = frozenset(
    {"test", "tests", "testing", "_vendor", "vendored", "_vendored_packages", "thirdparty_files"}
)
_MIN_FILE_BYTES = 2000
_MAX_FILE_BYTES = 1 << 20


def python_files(exclude: list[str]) -> list[tuple[FileRef, ...]]:
    """List the files of each installed package that may hold prose, in a fixed order.

    Args:
        exclude: Globs of package names to leave out.

    Returns:
        For each package, sorted by name: its Python files and the METADATA that holds its long description, sorted.
        Labels are relative to where packages are installed.
    """
    # Not the whole of sys.path: importing Ray adds packages of its own to it, so the result would depend on who asks.
    places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions(path=list(dict.fromkeys(places))):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()  # half-removed ones have no name
        if name and not any(fnmatch(name, pattern) for pattern in exclude):
            found.setdefault(name, distribution)
    packages = (_package_files(found[name]) for name in sorted(found))
    return [files for files in packages if files]


def _package_files(distribution: importlib.metadata.Distribution) -> tuple[FileRef, ...]:
    references = []
    for path in distribution.files or ():
        parts = set(path.parts)
        if parts & _SKIPPED_PARTS or ".." in parts:
            continue
        if path.suffix == ".py" or (path.name == "METADATA" and path.parent.suffix == ".dist-info"):
            located = Path(str(distribution.locate_file(path)))
            try:
                size = os.stat(located).st_size
            except FileNotFoundError:
                continue  # listed by the installer, removed since
            if _MIN_FILE_BYTES <= size <= _MAX_FILE_BYTES:
                references.append(FileRef(uri=str(located), label=path.as_posix(), bytes=size))
    return tuple(sorted(references, key=lambda file: file.label))
