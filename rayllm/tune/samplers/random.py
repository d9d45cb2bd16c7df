"""Random search: independent samples of the space, each with every combination of its grids."""

from collections import deque

from rayllm.tune.results import TrialResult
from rayllm.tune.samplers.sampler import name_of
from rayllm.tune.space import Settings, Space

#: So many samples in a row without anything new, and the space is taken to be spent.
FRUITLESS = 1000


class RandomSampler:
    """Proposes the samples of a space in order, each settings once; listens to nothing.

    Args:
        space: What to draw from.
        seed: Of the draws.
    """

    def __init__(self, space: Space, seed: int) -> None:
        self._space, self._seed = space, seed
        self._number = 0
        self._next: deque[Settings] = deque()
        self._proposed: set[str] = set()

    @property
    def done(self) -> bool:
        """Whether the space holds nothing new: a grid was tried as a whole, or all values were drawn."""
        self._fill()
        return not self._next

    def ask(self) -> Settings | None:
        """The next sample."""
        self._fill()
        if not self._next:
            return None
        return self._next.popleft()

    def tell(self, result: TrialResult) -> None:
        """Nothing follows from a result."""

    def _fill(self) -> None:
        fruitless = 0
        while not self._next and fruitless < FRUITLESS and not (self._number and not self._space.has_chance):
            for one in self._space.sample(self._number, self._seed):
                if (name := name_of(one)) not in self._proposed:
                    self._proposed.add(name)
                    self._next.append(one)
            self._number += 1
            fruitless += 1
