"""The search for a mixture as a sampler: what one step asks for is proposed, and its results make the next step.

All rounds are so one search of the executor, which keeps a process warm between them.
"""

from collections.abc import Callable
from typing import Any

from rayllm.core.errors import RunFailed
from rayllm.tune.law.rounds import Outcome, Trainings, search
from rayllm.tune.law.runs import Problem
from rayllm.tune.results import TrialResult
from rayllm.tune.space import Settings


class LawSampler:
    """Proposes the trainings of each step in order, and takes the next step when all of them have ended.

    Args:
        problem: What the law is asked.
        key: The key of the training of some settings; results are known by it.
        begun: Told of every step before it is proposed.
    """

    def __init__(
        self, problem: Problem, key: Callable[[Settings], str], begun: Callable[[Trainings], None] = lambda _: None
    ) -> None:
        self._problem, self._key, self._begun = problem, key, begun
        self._walk = search(problem)
        self._results: dict[str, TrialResult] = {}
        self._outcome: Outcome | None = None
        self._error: RunFailed | None = None
        self._begin(next(self._walk))

    def __reduce__(self) -> tuple[type["LawSampler"], tuple[Any, ...]]:
        """A copy begins anew: a walk cannot be written down, which Ray Tune does with all that it is given."""
        return LawSampler, (self._problem, self._key, self._begun)

    @property
    def done(self) -> bool:
        """Whether the search has ended."""
        return self._outcome is not None or self._error is not None

    def ask(self) -> Settings | None:
        """The next training of the step; None while results are awaited, and at the end."""
        while not self._left and not self.done and self._results.keys() >= {key for key, _ in self._wanted}:
            self._step()
        return self._left.pop() if self._left else None

    def tell(self, result: TrialResult) -> None:
        """How a training ended."""
        self._results[result.key] = result

    def outcome(self) -> Outcome:
        """How the search ended; one that still awaits results ends here: the budget is spent.

        Raises:
            RunFailed: If too few trainings finished.
        """
        while not self.done:
            self._step()
        if self._error:
            raise self._error
        assert self._outcome, "a search that ended without an error has an outcome"
        return self._outcome

    def _begin(self, step: Trainings) -> None:
        self._begun(step)
        self._wanted = [(self._key(settings), settings) for settings in step.settings]
        self._left = step.settings[::-1]

    def _step(self) -> None:
        """Send the results that there are. An error waits for ``outcome``: the executor is no place for it."""
        found = self._results
        results = [found[key].model_copy(update={"settings": one}) for key, one in self._wanted if key in found]
        try:
            self._begin(self._walk.send(results))
        except StopIteration as end:
            self._outcome = end.value
        except RunFailed as error:
            self._error = error
