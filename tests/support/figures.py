"""Tables of what tests measured, printed after the tests.

A test that has a figure to show takes the fixture ``tell`` and gives it a row: ``tell("logits against transformers",
model="gpt2", gap="2.1e-06")``. Rows travel in the reports of the tests, so those of other processes (pytest-xdist),
whose output nobody sees, arrive too.
"""

from collections.abc import Callable, Iterable

import pytest

FIGURE = "figure"

#: Tells a row of a table: the table's title, and a text for each column.
Tell = Callable[..., None]
Row = dict[str, str]


def teller(item: pytest.Item) -> Tell:
    """What puts rows into a test's report."""

    def tell(table: str, **cells: object) -> None:
        item.user_properties.append((FIGURE, [table, {name: str(text) for name, text in cells.items()}]))

    return tell


def collect(reports: Iterable[pytest.TestReport]) -> dict[str, list[Row]]:
    """The rows of each table, in the order in which the tests ended."""
    tables: dict[str, list[Row]] = {}
    for report in reports:
        for table, row in (value for name, value in report.user_properties if name == FIGURE):
            tables.setdefault(table, []).append(row)
    return tables


def render(rows: list[Row]) -> list[str]:
    """A table as lines of text, the names of its columns first."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[name.replace("_", " ") for name in names], *([row.get(name, "") for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
