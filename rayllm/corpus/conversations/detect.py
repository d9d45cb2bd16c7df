"""Which layout the rows of a source have, conversations or pairs: told from its first rows, or refused."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rayllm.core.errors import DataError
from rayllm.core.log import get_logger
from rayllm.corpus.conversations.layouts import Layout, fitting
from rayllm.corpus.documents import FileRef
from rayllm.corpus.files.first_rows import first_rows

logger = get_logger(__name__)

#: Files and rows of each that are looked at.
MAX_FILES, MAX_ROWS = 8, 32


def detect_layout(
    files: Sequence[FileRef], setting: str, layouts: Mapping[str, Layout[Any]], rows: str = "conversations"
) -> str:
    """The layout that all first rows of a source's files have.

    Rows with no layout at all are left to the reader, which puts them into quarantine.

    Args:
        files: The files; of many, some are looked at.
        setting: Where the source stands in the config, for errors.
        layouts: Those that there are, by name.
        rows: What the rows are, for messages.

    Raises:
        DataError: If no row has a layout, one has several, or rows have different ones.
    """
    step = -(-len(files) // MAX_FILES)
    found: Counter[str] = Counter()
    read = 0
    for file in files[::step]:
        for number, row in enumerate(first_rows(file, MAX_ROWS), 1):
            read += 1
            names = fitting(row, layouts)
            if len(names) > 1:
                raise _refused("a row could be read as several layouts", setting, f"{file.label}, row {number}", names)
            found.update(names)
    if len(found) > 1:
        counts = [f"{name} ({count} rows)" for name, count in found.items()]
        raise _refused("the rows of a source have different layouts", setting, files[0].label, counts)
    if not found:
        raise _nothing_fits(files[0], setting, layouts, rows)
    (layout,) = found
    logger.info("%s: %s in the layout %s (%s of the %s rows looked at)", setting, rows, layout, found[layout], read)
    return layout


def _refused(what: str, setting: str, place: str, names: Sequence[str]) -> DataError:
    return DataError(
        what,
        where=f"{setting}: {place}",
        why=f"{' and '.join(names)} fit",
        fix="name the right one in `layout`, or make a source of each part",
    )


def _nothing_fits(file: FileRef, setting: str, layouts: Mapping[str, Layout[Any]], rows: str) -> DataError:
    first: list[Mapping[str, Any]] = first_rows(file, 1)
    known = "; ".join(f"{name}: {layout.needs}" for name, layout in layouts.items())
    return DataError(
        f"no row of a source is one of {rows} in a layout that is known",
        where=f"{setting}: {file.label}",
        why=f"its first row has {', '.join(first[0])}; known are {known}"
        if first
        else "no row could be read; a file of lines has one JSON object on each",
        fix="write the rows in one of these layouts"
        if first
        else "make lines of a JSON list by `jq -c '.[]' FILE`, or correct `path`",
    )
