"""Our samplers as Ray Tune sees them: an algorithm that gives it one trial at a time, as many as fit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ray.tune.experiment import Experiment, Trial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.search import SearchAlgorithm

from rayllm.pipelines.tune.book import Book
from rayllm.pipelines.tune.schedulers import Judged
from rayllm.pipelines.tune.trial_runs import TrialRun
from rayllm.train.config import TrainConfig


class Search(SearchAlgorithm):
    """Asks the book for trials while there is room.

    Args:
        book: Of the sweep.
        room: How many trials may live at a time; asked each time.
        prepare: What the scheduler needs of a trial's training.
        scheduler: Knows whether a trial that waits comes first.
    """

    def __init__(
        self, book: Book, room: Callable[[], float], prepare: Callable[[TrainConfig], TrainConfig], scheduler: Judged
    ) -> None:
        self._book, self._room, self._prepare, self._scheduler = book, room, prepare, scheduler
        self._interrupted = False
        self._spec: dict[str, Any] = {}
        self._parser = _make_parser()

    def add_configurations(self, experiments: Any) -> None:
        """Keep what all trials have in common."""
        [experiment] = experiments if isinstance(experiments, list) else [experiments]
        assert isinstance(experiment, Experiment)
        self._spec = experiment.spec

    def next_trial(self) -> Trial | None:
        """A trial, if there is room and anything to try."""
        if self._finished or not self._scheduler.admits(len(self._book.live), self._room()):
            return None
        run = self._book.next_run()
        self._finished = self._finished or self._book.exhausted
        return self._trial(run) if run else None

    def is_finished(self) -> bool:
        """Whether no trial begins any more, and none goes on: until then, Tune keeps processes warm."""
        return self._interrupted or (self._finished and not self._scheduler.waits)

    def set_finished(self) -> None:
        """Tune calls this where all trials are told to end, those that wait too."""
        self._finished = self._interrupted = True

    def _trial(self, run: TrialRun) -> Trial:
        order = self._book.order(run)
        config = order.config.model_copy(update={"train": self._prepare(order.config.train)})
        order = replace(order, config=config)
        spec = {**self._spec, "config": {"order": order}}
        trial = _create_trial_from_spec(spec, self._parser, trial_id=run.id, experiment_tag=run.trial.name)
        trial.init_local_path()  # Tune does so when it begins, and in the end asks for it of those too that never did
        return trial
