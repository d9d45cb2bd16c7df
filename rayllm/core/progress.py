"""What a step of long work says of itself, so that someone can show how far the work is; showing it is not done here.

Work that knows neither terminals nor Ray passes its steps through a ``Watch``; the caller chooses which.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class Step(NamedTuple):
    """One step of a longer work.

    Attributes:
        done: How much of the total it is, in the total's unit.
        documents: Documents that went through it.
        bytes: UTF-8 bytes of their text.
        tokens: Their tokens, where they are known.
        found: Whether an earlier start had done it: then it says nothing about speed.
    """

    done: float = 1
    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    found: bool = False


class Watch(Protocol):
    """Passes items on, unchanged and in order, and may tell someone how far it is."""

    def __call__(
        self, items: Iterable[T], label: str, *, total: float, step: Callable[[T], Step], unit: str = "steps"
    ) -> Iterator[T]:
        """Watch a piece of work.

        Args:
            items: What is made, as it is made.
            label: What is being done, such as ``prepare: reading``.
            total: The sum of ``Step.done`` over all items, known or estimated.
            step: What an item says of itself.
            unit: What ``total`` counts, plural, for people; ``bytes`` are shown with their unit.
        """
        ...


def unwatched(
    items: Iterable[T], label: str, *, total: float, step: Callable[[T], Step], unit: str = "steps"
) -> Iterator[T]:
    """A ``Watch`` that tells nobody."""
    return iter(items)
