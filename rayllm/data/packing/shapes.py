"""What one row holds, as lengths: the result of packing on a histogram."""

from typing import NamedTuple


class Shape(NamedTuple):
    """Rows that hold the same lengths.

    Attributes:
        rows: How many.
        items: The lengths in one row, each with how often it comes: long ones first.
    """

    rows: int
    items: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> int:
        """Tokens of one of the rows."""
        return sum(size * times for size, times in self.items)
