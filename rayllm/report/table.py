"""A table as HTML and Markdown both can show it: columns, and cells of text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A column: its head, the head above it that it shares with its neighbours, and whether it holds numbers."""

    label: str
    group: str = ""
    numeric: bool = True

    @property
    def full_label(self) -> str:
        """Group and label in one, for tables with one head row."""
        return f"{self.group}, {self.label}" if self.group else self.label


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and how it stands out.

    Attributes:
        text: As it is shown.
        bar: Length of a bar behind the text, 0 to 1.
        tone: ``good``, ``bad``, ``strong`` or nothing.
        domain: Index of the domain whose colour marks the cell.
        order: What the cell is sorted by, where a reader may sort; by default its text.
    """

    text: str
    bar: float | None = None
    tone: str = ""
    domain: int | None = None
    order: float | None = None


@dataclass(frozen=True)
class Table:
    """A table with a caption; ``note`` says below it what the columns mean."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The upper head row as (label, columns spanned); empty if no column has a group."""
        if not any(column.group for column in self.columns):
            return []
        spans: list[tuple[str, int]] = []
        for column in self.columns:
            if spans and column.group and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans
