"""What a sampler is: it proposes settings, and is told how they did.

In: results, one at a time, as trials end. Out: settings, one at a time, when there is room for a trial. The same seed
and the same order of asks and tells give the same proposals.
"""

import json
from collections.abc import Iterable
from typing import Protocol

from rayllm.tune.results import TrialResult
from rayllm.tune.space import Settings


class Sampler(Protocol):
    """Proposes what to try."""

    @property
    def done(self) -> bool:
        """Whether nothing will be proposed any more, whatever it is told."""
        ...

    def ask(self) -> Settings | None:
        """The settings of the next trial; None if there are none now, or ever (see ``done``)."""
        ...

    def tell(self, result: TrialResult) -> None:
        """How a trial ended."""
        ...


class ListSampler:
    """Proposes some settings in order, and listens to nothing: baselines, grids, confirmations, swarms.

    Args:
        settings: What to propose; the same settings are proposed once.
    """

    def __init__(self, settings: Iterable[Settings]) -> None:
        self._left = distinct(settings)[::-1]

    @property
    def done(self) -> bool:
        """Whether all were proposed."""
        return not self._left

    def ask(self) -> Settings | None:
        """The next settings."""
        return self._left.pop() if self._left else None

    def tell(self, result: TrialResult) -> None:
        """Nothing follows from a result."""


def distinct(settings: Iterable[Settings]) -> list[Settings]:
    """Each settings once, in order of first appearance."""
    found: dict[str, Settings] = {}
    for one in settings:
        found.setdefault(name_of(one), one)
    return list(found.values())


def name_of(settings: Settings) -> str:
    """Settings as a key: equal for equal settings, whatever their order."""
    return json.dumps(settings, sort_keys=True)
