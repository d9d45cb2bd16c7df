"""Units to documents: a reader for each kind of source, streaming, in memory bounded by ``max_row_bytes``.

Whatever in a file is not a document (a malformed line, invalid UTF-8, a wrong type, a missing field, a cut-off file, a
file that expands a thousand times) comes out as a ``BadRow`` and never stops the rest; what a source's own settings
leave out comes out as ``Unwanted``. Only a file that cannot be opened at all is an error.
"""

from collections.abc import Callable, Iterator
from typing import Any

from rayllm.core.errors import DataError
from rayllm.corpus.documents import Row, Unit
from rayllm.corpus.files.opening import network_errors
from rayllm.corpus.readers.builtin import (
    generate_conversations,
    generate_math,
    generate_preferences,
    read_prose,
)
from rayllm.corpus.readers.conversations import read_conversations, read_preferences
from rayllm.corpus.readers.jsonl import read_jsonl
from rayllm.corpus.readers.tables import read_arrow, read_parquet
from rayllm.corpus.readers.texts import read_code, read_markdown, read_stdlib, read_text
from rayllm.corpus.readers.web import read_warc
from rayllm.corpus.sources import Source

__all__ = ["READERS", "Row", "read_unit"]

READERS: dict[str, Callable[[Unit, Any, int, int], Iterator[Row]]] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "text": read_text,
    "markdown": read_markdown,
    "warc": read_warc,
    "code": read_code,
    "python_stdlib": read_stdlib,
    "installed_prose": read_prose,
    "synthetic_math": generate_math,
    "conversations": read_conversations,
    "synthetic_conversations": generate_conversations,
    "preferences": read_preferences,
    "synthetic_preferences": generate_preferences,
}


def read_unit(unit: Unit, source: Source, *, max_row_bytes: int, seed: int) -> Iterator[Row]:
    """Read the documents of a unit, in the order of its files.

    Args:
        unit: What to read.
        source: The source that listed it.
        max_row_bytes: Longer lines and files become bad rows, in bytes.
        seed: The run's seed, for sources that generate.

    Raises:
        DataError: If a file cannot be opened or read.
    """
    try:
        yield from READERS[source.kind](unit, source, max_row_bytes, seed)
    except (OSError, *network_errors()) as error:
        raise DataError(
            "a source cannot be read",
            where=getattr(error, "filename", None) or ", ".join(file.label for file in unit.files[:3]),
            why=getattr(error, "strerror", None) or str(error) or type(error).__name__,
            fix=f"make it readable, or take it out of the sources of {unit.domain}",
        ) from error
