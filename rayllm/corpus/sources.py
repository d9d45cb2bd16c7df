"""Where documents come from: one config per kind of source, and how each lists its work.

In: the ``sources:`` of a run file. Out: units, in an order that depends on nothing but the config and the files: large
files are cut (JSONL by bytes, Parquet by row groups), small ones grouped, so that a unit is about ``unit_bytes`` of
input. How units are read is in ``readers``.
"""

import string
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from rayllm.core.config import ConfigModel, Count
from rayllm.core.errors import DataError
from rayllm.corpus.builtin.packages import python_files
from rayllm.corpus.documents import Content, FileRef, Split, Unit
from rayllm.corpus.files.cuts import find_all, group_files, group_packages, group_sizes, row_group_bytes
from rayllm.corpus.files.lines import is_compressed
from rayllm.corpus.files.paths import excluded, find_tree

#: Parts of the standard library that are not code that anyone would want to learn from.
STDLIB_EXCLUDE = ["test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "_bundled"]
SYNTHETIC_UNIT_DOCUMENTS = 4000


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


Paths = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str]), Field(min_length=1)]


class SourceConfig(ConfigModel):
    """What all kinds of source have."""

    content: Content = Field(default="prose", description="Which of `prepare.rules` apply: prose, code or math.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[dict[str, Any]]:
        """Yield ``files``, ``start`` and ``stop`` of each unit.

        Args:
            setting: Where this source stands in the config, for errors.
            unit_bytes: Input that a unit should have, in bytes.

        Raises:
            DataError: If there is nothing to read.
        """
        raise NotImplementedError


class RowsConfig(SourceConfig):
    """Files of rows with named fields."""

    path: Paths = Field(
        description="Path, URI or glob, or a list of them; `${VAR}` and `${VAR:-default}` are replaced."
    )
    text: str = Field(default="text", description="Field that holds the text; a dot goes into nested fields.")
    template: str | None = Field(
        default=None, description="Text made of several fields, such as `{question}\\n{answer}`; instead of `text`."
    )
    id: str | None = Field(
        default=None, description="Field that holds the id; by default the hash of the text is the id."
    )
    metadata: list[str] = Field(default=[], description="Fields that are kept as metadata.")

    @model_validator(mode="after")
    def _one_way_to_the_text(self) -> "RowsConfig":
        if self.template is None:
            return self
        if "text" in self.model_fields_set and self.text != "text":
            raise ValueError("set `text` or `template`, not both")
        for _, name, specification, conversion in string.Formatter().parse(self.template):
            if name == "" or specification or conversion:
                raise ValueError("in `template`, braces hold the name of a field and nothing else")
        if not self.fields:
            raise ValueError("`template` names no field, so all documents would be equal")
        return self

    @property
    def fields(self) -> list[str]:
        """The fields that the text is made of."""
        if self.template is None:
            return [self.text]
        return [name for _, name, _, _ in string.Formatter().parse(self.template) if name]


class JsonlSource(RowsConfig):
    """JSON Lines: one object a line, plain or compressed (gz, zst, bz2)."""

    kind: Literal["jsonl"] = Field(default="jsonl", description="JSON Lines.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[dict[str, Any]]:
        """Small files in groups; large uncompressed ones by byte range."""
        for group in group_files(find_all(self.path, setting), unit_bytes):
            (file, *others) = group
            if others or file.bytes <= unit_bytes or is_compressed(file.uri):
                yield {"files": group}
                continue
            for start in range(0, file.bytes, unit_bytes):
                yield {"files": group, "start": start, "stop": min(start + unit_bytes, file.bytes)}


class ParquetSource(RowsConfig):
    """Parquet files."""

    kind: Literal["parquet"] = Field(default="parquet", description="Parquet.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[dict[str, Any]]:
        """Row groups, several to a unit where they are small."""
        for file in find_all(self.path, setting):
            sizes = row_group_bytes(file, [*self.fields, *([self.id] if self.id else [])], setting)
            if sizes is None:
                yield {"files": (file,)}  # not readable as Parquet: the reader puts it into quarantine
                continue
            for start, stop in group_sizes(sizes, unit_bytes):
                yield {"files": (file,), "start": start, "stop": stop}


class TextSource(SourceConfig):
    """Plain text files, plain or compressed (gz, zst, bz2)."""

    kind: Literal["text"] = Field(default="text", description="Plain text.")
    path: Paths = Field(
        description="Path, URI or glob, or a list of them; `${VAR}` and `${VAR:-default}` are replaced."
    )
    documents: Literal["file", "line", "separator"] = Field(
        default="file",
        description="What a document is: a file, a line, or what stands between lines equal to `separator`.",
    )
    separator: str = Field(default="<|endoftext|>", min_length=1, description="The line that separates documents.")
    piece_bytes: Count | None = Field(
        default=64 << 10,
        ge=256,
        description="Longer documents (books) are cut at blank lines to this, in bytes; null: prepare.max_row_bytes.",
    )

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[dict[str, Any]]:
        """Files, small ones in groups."""
        for group in group_files(find_all(self.path, setting), unit_bytes):
            yield {"files": group}


class CodeSource(SourceConfig):
    """The source files of directory trees."""

    kind: Literal["code"] = Field(default="code", description="A tree of source files.")
    content: Content = Field(default="code", description="Which of `prepare.rules` apply: prose, code or math.")
    path: Paths = Field(description="Directory or URI, or a list of them; `${VAR}` and `${VAR:-default}` are replaced.")
    suffixes: list[str] = Field(default=[".py"], min_length=1, description="Endings of the files to take.")
    exclude: list[str] = Field(
        default=[".git", "node_modules", "__pycache__", ".venv", "venv", "site-packages", "*.min.*"],
        description="Globs of what to leave out: with `/` of the whole relative path, else of any one part of it.",
    )
    min_file_bytes: Count = Field(default=1, ge=0, description="Smaller files are left out, in bytes.")
    max_file_bytes: Count = Field(default=1 << 20, ge=1, description="Larger files are left out, in bytes.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[dict[str, Any]]:
        """Groups of files."""
        for root in self.path:
            files = [file for file, relative in find_tree(root, setting) if self._wanted(file, relative)]
            if not files:
                raise DataError(
                    f"no file ends in {', '.join(self.suffixes)}",
                    where=f"{setting}: {root}",
                    fix="correct `path`, `suffixes`, `exclude` or the limits on file bytes",
                )
            for group in group_files(files, unit_bytes):
                yield {"files": group}

    def _wanted(self, file: FileRef, relative: str) -> bool:
        return (
            relative.endswith(tuple(self.suffixes))
            and self.min_file_bytes <= file.bytes <= self.max_file_bytes
            and not excluded(relative, self.exclude)
        )


class PythonStdlibSource(SourceConfig):
    """The source of the running Python's standard library, without its tests: about 11 MB, on every machine."""

    kind: Literal["python_stdlib"] = Field(default="python_stdlib", description="This Python's standard library.")
    content: Content = Field(default="code", description="Which of `prepare.rules` apply: prose, code or math.")
    max_file_bytes: Count = Field(default=512 << 10, ge=1, description="Larger files are left out, in bytes.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[dict[str, Any]]:
        """Groups of files."""
        root = Path(sysconfig.get_path("stdlib"))
        files = [
            FileRef(uri=str(root / relative), label=f"{root.name}/{relative}", bytes=file.bytes)
            for file, relative in find_tree(str(root), setting)
            if relative.endswith(".py") and 0 < file.bytes <= self.max_file_bytes
            if not excluded(relative, STDLIB_EXCLUDE)
        ]
        for group in group_files(files, unit_bytes):
            yield {"files": group}


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

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[dict[str, Any]]:
        """Whole packages in groups; ``stop`` is the group's share of ``max_bytes``."""
        packages = python_files(self.exclude)
        if not packages:
            raise DataError("no package is installed", where=setting, fix="use another kind of source")
        total = sum(file.bytes for package in packages for file in package)
        # Prose is about a tenth of a package, and most of the time goes to finding it: larger units than elsewhere.
        for group in group_packages(packages, 4 * unit_bytes):
            share = sum(file.bytes for file in group) / total
            yield {"files": group, "stop": None if self.max_bytes is None else int(self.max_bytes * share)}


class SyntheticMathSource(SourceConfig):
    """Generated mathematics with worked solutions: arithmetic, equations and word problems, every answer right."""

    kind: Literal["synthetic_math"] = Field(default="synthetic_math", description="Generated problems with solutions.")
    content: Content = Field(default="math", description="Which of `prepare.rules` apply: prose, code or math.")
    split: Split = Field(
        default="train",
        description="Which templates to use; those of `validation` never occur in `train`, nor vice versa.",
    )
    documents: Count = Field(default=20_000, ge=1, description="How many documents to generate.")

    def pieces(self, setting: str, unit_bytes: int) -> Iterator[dict[str, Any]]:
        """Ranges of document numbers."""
        for start in range(0, self.documents, SYNTHETIC_UNIT_DOCUMENTS):
            yield {"start": start, "stop": min(start + SYNTHETIC_UNIT_DOCUMENTS, self.documents)}


Source = Annotated[
    JsonlSource
    | ParquetSource
    | TextSource
    | CodeSource
    | PythonStdlibSource
    | InstalledProseSource
    | SyntheticMathSource,
    Field(discriminator="kind"),
]


def _one_or_many(value: object) -> object:
    return value if isinstance(value, list) else [value]


#: What a domain is made of: one source, or a list of them.
SourceList = Annotated[
    list[Source], BeforeValidator(_one_or_many, json_schema_input_type=Source | list[Source]), Field(min_length=1)
]


def domain_name(name: str) -> str:
    """Check the name of a domain: it becomes a directory and part of metric names."""
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise ValueError(f"{name!r}: a domain's name has letters, digits, `-` and `_` only")
    return name


class ValidationConfig(ConfigModel):
    """Where validation documents come from."""

    sources: dict[str, SourceList] = Field(
        default={},
        description="Validation sources of their own, by training domain; cleaned, but never filtered by rules.",
    )
    heldout_frac: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Share of the documents held out (at least one) of the domains that have no source here.",
    )
    max_bytes_per_domain: Count | None = Field(
        default=None, ge=1, description="Most validation text of a domain, in bytes, chosen by hash; null: no limit."
    )

    @field_validator("sources")
    @classmethod
    def _plain_names(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {domain_name(name): sources for name, sources in value.items()}


def list_units(
    sources: Mapping[str, list[Source]], split: Split, unit_bytes: int, section: str = "sources"
) -> list[Unit]:
    """List the work of all domains, sorted by domain, then by source and file.

    Args:
        sources: The sources of each domain.
        split: What they are for.
        unit_bytes: Input that a unit should have, in bytes.
        section: Where ``sources`` stands in the config, for errors.

    Raises:
        DataError: If a source has nothing to read, naming its setting.
        ConfigError: If a path uses an environment variable that is not set.
    """
    units: list[Unit] = []
    for domain in sorted(sources):
        for position, source in enumerate(sources[domain]):
            setting = f"{section}.{domain}" + (f"[{position}]" if len(sources[domain]) > 1 else "")
            for piece in source.pieces(setting, unit_bytes):
                units.append(Unit(domain=domain, split=split, source=position, **piece))
    return units
