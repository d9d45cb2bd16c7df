"""Reading a set of which every row is needed: a bad one is an error, not a line of a quarantine."""

from collections.abc import Iterator

from rayllm.core.errors import DataError
from rayllm.corpus.documents import BadRow, Document, Unit
from rayllm.corpus.readers import read_unit
from rayllm.corpus.sources import JsonlSource, ParquetSource

_MAX_ROW_BYTES = 64 << 20


def read_strictly(source: JsonlSource | ParquetSource, name: str, setting: str, *, row: str) -> Iterator[Document]:
    """All documents of a source, in the order of its files.

    Args:
        source: Where they are.
        name: Of the set; it stands in the documents' ids.
        setting: Where the source stands in the run file, for errors.
        row: What a row is, for errors, such as ``a labelled example``.

    Raises:
        DataError: If a file cannot be read, or a row cannot be used.
    """
    for piece in source.pieces(setting, 1 << 62):
        unit = Unit(domain=name, split="validation", source=0, **dict(piece))
        for found in read_unit(unit, source, max_row_bytes=_MAX_ROW_BYTES, seed=0):
            if isinstance(found, BadRow):
                raise DataError(
                    f"{row} cannot be used",
                    where=f"{setting}: {found.source}" + (f":{found.row}" if found.row else ""),
                    why=f"{found.kind}: {found.detail}",
                    fix="correct the file, or the `text` or `template` beside its path",
                )
            if isinstance(found, Document):
                yield found
