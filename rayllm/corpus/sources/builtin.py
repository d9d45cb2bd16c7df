"""Sources that every machine has: nothing is downloaded."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from rayllm.core.config import Count
from rayllm.core.errors import DataError
from rayllm.corpus.builtin.packages import python_files
from rayllm.corpus.documents import Content, FileRef, Piece, Split
from rayllm.corpus.files.cuts import group_files, group_packages
from rayllm.corpus.files.paths import excluded, find_tree
from rayllm.corpus.sources.base import SourceConfig

#: Parts of the standard library that are not code that anyone would want to learn from.
STDLIB_EXCLUDE = ["test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "_bundled"]
SYNTHETIC_UNIT_DOCUMENTS = 4000


class PythonStdlibSource(SourceConfig):
    """The source of the running Python's standard library, without its tests: about 11 MB, on every machine."""

    kind: Literal["python_stdlib"] = Field(default="python_stdlib", description="This Python's standard library.")
    content: Content = Field(default="code", description="Which of `prepare.rules` apply: prose, code, math or chat.")
    max_file_bytes: Count = Field(default=512 << 10, ge=1, description="Larger files are left out, in bytes.")

    @property
    def terms(self) -> str:
        """See ``SourceConfig.terms``."""
        return self.license or "PSF-2.0, as Python itself"

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Groups of files."""
        root = Path(sysconfig.get_path("stdlib"))
        files = [
            FileRef(uri=str(root / relative), label=f"{root.name}/{relative}", bytes=file.bytes)
            for file, relative in find_tree(str(root), setting)
            if relative.endswith(".py") and 0 < file.bytes <= self.max_file_bytes
            if not excluded(relative, STDLIB_EXCLUDE)
        ]
        yield from group_files(files, unit_bytes)


class InstalledProseSource(SourceConfig):
    """English prose from every package installed beside this one: docstrings and long descriptions.

    Nothing is imported or run. A document is a module's (or a description's) prose; code, doctests, tables of
    parameters and repeated paragraphs are left out.
    """

    kind: Literal["installed_prose"] = Field(default="installed_prose", description="Docstrings of installed packages.")
    max_bytes: Count | None = Field(
        default=8 << 20, ge=1, description="Take no more than this, in bytes, spread over the packages by their size."
    )
    exclude: list[str] = Field(default=[], description="Globs of package names to leave out.")

    @property
    def terms(self) -> str:
        """See ``SourceConfig.terms``."""
        return self.license or "those of the packages"

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Whole packages in groups; ``stop`` is the group's share of ``max_bytes``."""
        packages = python_files(self.exclude)
        if not packages:
            raise DataError("no package is installed", where=setting, fix="use another kind of source")
        total = sum(file.bytes for package in packages for file in package)
        # Prose is about a tenth of a package, and most of the time goes to finding it: larger units than elsewhere.
        for group in group_packages(packages, 4 * unit_bytes):
            share = None if self.max_bytes is None else int(self.max_bytes * group.bytes / total)
            yield group.model_copy(update={"stop": share})


class GeneratedSource(SourceConfig):
    """Mathematics made here: how much of it, and from which templates."""

    content: Content = Field(default="math", description="Which of `prepare.rules` apply: prose, code, math or chat.")
    split: Split = Field(
        default="train",
        description="Which templates to use; those of `validation` never occur in `train`, nor vice versa.",
    )
    documents: Count = Field(default=20_000, ge=1, description="How many documents to generate.")

    @property
    def terms(self) -> str:
        """See ``SourceConfig.terms``."""
        return self.license or "none: made here"

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[Piece]:
        """Ranges of document numbers."""
        for start in range(0, self.documents, SYNTHETIC_UNIT_DOCUMENTS):
            yield Piece(start=start, stop=min(start + SYNTHETIC_UNIT_DOCUMENTS, self.documents))


class SyntheticMathSource(GeneratedSource):
    """Generated mathematics with worked solutions: arithmetic, equations and word problems, every answer right."""

    kind: Literal["synthetic_math"] = Field(default="synthetic_math", description="Generated problems with solutions.")


class SyntheticConversationsSource(GeneratedSource):
    """The same problems as conversations: someone asks, and the reply is the worked solution."""

    kind: Literal["synthetic_conversations"] = Field(
        default="synthetic_conversations", description="Generated problems, asked and answered."
    )
    content: Content = Field(default="chat", description="Which of `prepare.rules` apply: prose, code, math or chat.")


class SyntheticPreferencesSource(GeneratedSource):
    """The same problems with two replies each: the worked solution, and the same one with wrong numbers in it."""

    kind: Literal["synthetic_preferences"] = Field(
        default="synthetic_preferences", description="Generated problems with a right and a wrong solution."
    )
    content: Content = Field(default="chat", description="Which of `prepare.rules` apply: prose, code, math or chat.")
