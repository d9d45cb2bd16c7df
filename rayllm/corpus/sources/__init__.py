"""Where documents come from: one config per kind of source, and how each lists its work.

In: the ``sources:`` of a run file. Out: units, in an order that depends on nothing but the config and the files: large
files are cut (JSONL by bytes, Parquet by row groups), small ones grouped, so that a unit is about ``unit_bytes`` of
input. How units are read is in ``readers``.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from rayllm.core.config import ConfigModel, Count
from rayllm.corpus.documents import Split, Unit
from rayllm.corpus.sources.base import FilesConfig, SourceConfig
from rayllm.corpus.sources.builtin import (
    InstalledProseSource,
    PythonStdlibSource,
    SyntheticConversationsSource,
    SyntheticMathSource,
    SyntheticPreferencesSource,
)
from rayllm.corpus.sources.code import CodeSource
from rayllm.corpus.sources.conversations import ConversationsSource, PreferencesSource
from rayllm.corpus.sources.rows import ArrowSource, JsonlSource, ParquetSource, RowsConfig
from rayllm.corpus.sources.texts import MarkdownSource, TextSource, WarcSource

__all__ = [
    "ArrowSource",
    "CodeSource",
    "ConversationsSource",
    "FilesConfig",
    "InstalledProseSource",
    "JsonlSource",
    "MarkdownSource",
    "ParquetSource",
    "PreferencesSource",
    "PythonStdlibSource",
    "RowsConfig",
    "Source",
    "SourceConfig",
    "SourceList",
    "SyntheticConversationsSource",
    "SyntheticMathSource",
    "SyntheticPreferencesSource",
    "TextSource",
    "ValidationConfig",
    "WarcSource",
    "domain_name",
    "holds_conversations",
    "holds_pairs",
    "list_units",
]

Source = Annotated[
    JsonlSource
    | ParquetSource
    | ArrowSource
    | TextSource
    | MarkdownSource
    | WarcSource
    | CodeSource
    | PythonStdlibSource
    | InstalledProseSource
    | SyntheticMathSource
    | ConversationsSource
    | SyntheticConversationsSource
    | PreferencesSource
    | SyntheticPreferencesSource,
    Field(discriminator="kind"),
]


def holds_conversations(source: SourceConfig) -> bool:
    """Whether a source's documents have turns."""
    return holds_pairs(source) or isinstance(source, ConversationsSource | SyntheticConversationsSource)


def holds_pairs(source: SourceConfig) -> bool:
    """Whether each of a source's documents is two replies to the same prompt."""
    return isinstance(source, PreferencesSource | SyntheticPreferencesSource)


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
                units.append(Unit(domain=domain, split=split, source=position, **dict(piece)))
    return units
