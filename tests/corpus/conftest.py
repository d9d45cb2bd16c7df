"""Fixtures of the corpus tests: sources from plain dicts, and a whole preparation in a plain loop."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from rayllm.corpus.build.build import BuildSettings, build_corpus
from rayllm.corpus.documents import BadRow, Document
from rayllm.corpus.readers import read_unit
from rayllm.corpus.sources import Source, SourceList, ValidationConfig, list_units


@pytest.fixture
def read() -> Callable[..., list[Any]]:
    """Read a source: all its documents and bad rows, unit after unit."""

    def run(source: dict[str, Any], unit_bytes: int = 1 << 20, max_row_bytes: int = 1 << 20) -> list[Any]:
        parsed = TypeAdapter(Source).validate_python(source)
        units = list_units({"d": [parsed]}, "train", unit_bytes)
        rows = [row for unit in units for row in read_unit(unit, parsed, max_row_bytes=max_row_bytes, seed=1)]
        return [row for row in rows if isinstance(row, Document | BadRow)]

    return run


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write rows as JSONL and return the path."""

    def write(name: str, rows: list[Any]) -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def build(output: Path | str, sources: dict[str, Any], run: Any = map, **settings: Any) -> dict[str, Any]:
    """Prepare a corpus in this process, with the rules off unless they are given."""
    validation = settings.pop("validation", {})
    off = {content: {"max_chars": None} for content in ("prose", "code", "math")}
    config = BuildSettings.model_validate({"rules": off, **settings})
    parsed = {name: TypeAdapter(SourceList).validate_python(value) for name, value in sources.items()}
    return build_corpus(
        parsed,
        ValidationConfig.model_validate(validation),
        config,
        seed=7,
        output=str(output),
        scratch=f"{output}.scratch",
        run=run,
    )["domains"]


def texts(output: Path | str, split: str, domain: str) -> list[str]:
    """All texts of a split of a domain, in order."""
    paths = sorted(Path(output, split, domain).glob("*.parquet"))
    return [text for path in paths for text in pq.read_table(path).column("text").to_pylist()]


@pytest.fixture
def prepare() -> Callable[..., dict[str, Any]]:
    """See ``build``."""
    return build


@pytest.fixture
def corpus_texts() -> Callable[..., list[str]]:
    """See ``texts``."""
    return texts
