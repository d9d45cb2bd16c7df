"""Trees of source files."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from rayllm.core.config import Count
from rayllm.core.errors import DataError
from rayllm.corpus.documents import Content, FileRef, Piece
from rayllm.corpus.files.cuts import group_files
from rayllm.corpus.files.paths import excluded, find_tree
from rayllm.corpus.languages import SUFFIXES, Language
from rayllm.corpus.licenses import LicenseFilter, is_license_file
from rayllm.corpus.sources.base import FilesConfig, Paths


class CodeSource(FilesConfig):
    """The source files of directory trees."""

    kind: Literal["code"] = Field(default="code", description="A tree of source files.")
    content: Content = Field(default="code", description="Which of `prepare.rules` apply: prose, code, math or chat.")
    path: Paths = Field(description="Directory or URI, or a list of them; `${VAR}` and `${VAR:-default}` are replaced.")
    languages: list[Language] = Field(
        default=[], description="Languages to take, by the endings of files; Python if there are no `suffixes` either."
    )
    suffixes: list[str] = Field(default=[], description="Endings of further files to take, such as `.pyx`.")
    licenses: LicenseFilter | None = Field(
        default=None,
        description="Which files to take by their licence: an SPDX tag in the file, or else the nearest licence file "
        "above it; others are dropped and counted. Null: all.",
    )
    exclude: list[str] = Field(
        default=[".git", "node_modules", "__pycache__", ".venv", "venv", "site-packages", "*.min.*"],
        description="Globs of what to leave out: with `/` of the whole relative path, else of any one part of it.",
    )
    min_file_bytes: Count = Field(default=1, ge=0, description="Smaller files are left out, in bytes.")
    max_file_bytes: Count = Field(default=1 << 20, ge=1, description="Larger files are left out, in bytes.")

    @property
    def endings(self) -> tuple[str, ...]:
        """Endings of the files to take."""
        languages = self.languages or (["python"] if not self.suffixes else [])
        return (*(suffix for language in languages for suffix in SUFFIXES[language]), *self.suffixes)

    def files(self, setting: str) -> list[FileRef]:
        """The files to take, and the licence files that decide about them; see ``SourceConfig.files``."""
        wanted = [file for root in self.path for file in self._wanted_files(root, setting)]
        licenses = {uri: FileRef(uri=uri, label=uri) for file in wanted for uri in file.license_files}
        return [*wanted, *licenses.values()]

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Groups of files."""
        for root in self.path:
            yield from group_files(self._wanted_files(root, setting), unit_bytes)

    def _wanted_files(self, root: str, setting: str) -> list[FileRef]:
        tree = find_tree(root, setting)
        licenses = _license_files(tree) if self.licenses else {}
        files = [
            file.model_copy(update={"license_files": _nearest(relative, licenses)})
            for file, relative in tree
            if self._wanted(file, relative)
        ]
        if not files:
            raise DataError(
                f"no file ends in {', '.join(self.endings)}",
                where=f"{setting}: {root}",
                fix="correct `path`, `languages`, `suffixes`, `exclude` or the limits on file bytes",
            )
        return files

    def _wanted(self, file: FileRef, relative: str) -> bool:
        return (
            relative.endswith(self.endings)
            and self.min_file_bytes <= file.bytes <= self.max_file_bytes
            and not excluded(relative, self.exclude)
        )


def _license_files(tree: list[tuple[FileRef, str]]) -> dict[str, tuple[str, ...]]:
    """URIs of the licence files of each directory that has any."""
    found: dict[str, tuple[str, ...]] = {}
    for file, relative in tree:
        directory, _, name = relative.rpartition("/")
        if is_license_file(name):
            found[directory] = (*found.get(directory, ()), file.uri)
    return found


def _nearest(relative: str, licenses: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The licence files of the nearest directory above a file."""
    directory = relative
    while directory:
        directory = directory.rpartition("/")[0]
        if directory in licenses:
            return licenses[directory]
    return ()
