"""A trial of several workers: a run of the crew, driven from the trial's process.

The process itself holds no resources, so it can always start; the workers' placement group is Ray Train's, set aside as
a whole or not at all, and returned when they have ended. So trials never wait for each other with half of what they
need. At a validation at which the trial is judged its workers stand still, and the decision is passed down to them as
a file, as Ctrl-C is. Where it is to stop they save and return, and only then is the trial over. What a killed process
leaves behind is given back by the sweep's driver (``abandoned``).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from rayllm.core import storage
from rayllm.core.errors import SavedForRerun
from rayllm.pipelines.train import turnstile
from rayllm.pipelines.train.crew.fitting import remove_records
from rayllm.pipelines.train.crew.sizing import Crew
from rayllm.pipelines.train.crew.stopping import StopRequest
from rayllm.pipelines.train.crew.supervisor import Supervisor
from rayllm.pipelines.train.job import STOP_FILE, Job
from rayllm.pipelines.train.session import Outlets, run_alone
from rayllm.pipelines.tune.capacity import Needs
from rayllm.pipelines.tune.stepwise import Gate


class PassedDown(StopRequest):
    """The request to stop as the workers of one trial get it: for this trial, or for the whole sweep.

    Args:
        file: URI of the file that the workers look for.
        all_asked: Whether all trials were asked to stop.
    """

    def __init__(self, file: str, all_asked: Callable[[], bool]) -> None:
        self._told, self._all_asked = False, all_asked
        super().__init__(file)

    @property
    def asked(self) -> bool:
        """Whether this trial is to stop; the supervisor asks several times a second."""
        if not self._told and self._all_asked():
            self.tell()
        return self._told

    @asked.setter
    def asked(self, value: bool) -> None:
        self._told = value

    def tell(self) -> None:
        """Ask the workers to save and stop."""
        self._told = True
        self.write()


class GateDisplay:
    """Shows the records of the workers to the gate."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def show(self, record: Mapping[str, Any]) -> None:
        """Pass a record on; the first is written before the first step."""
        self._gate.write(record)

    def close(self) -> None:
        """Nothing to leave on the screen."""


def train_with_crew(job: Job, needs: Needs, gate: Gate, all_asked: Callable[[], bool]) -> bool:
    """Train with the workers of a trial.

    Args:
        job: What to train.
        needs: Resources of each worker, and how many there are.
        gate: Gets the records; ends the training.
        all_asked: Whether all trials were asked to stop.

    Returns:
        Whether the plan was finished; else the workers were asked to stop, and have saved.
    """
    storage.make_dirs(job.checkpoints)
    stop = PassedDown(storage.join(job.directory, STOP_FILE), all_asked)

    def pass_down(step: int, go_on: bool) -> None:
        if go_on:
            turnstile.let_go_on(job.directory, step)
        else:
            stop.tell()

    gate.on_answer = pass_down
    job = dataclasses.replace(job, judged_at=tuple(job.config.train.validation.at_steps))
    try:
        crew = Crew(needs.workers, needs.cpus, int(needs.gpus))
        Supervisor(_with_workers(job, needs.workers), crew, GateDisplay(gate), stop).run()
    except SavedForRerun:
        return False
    finally:
        stop.clear()
        turnstile.forget(job.directory)
        remove_records(job.directory)
    return True


def _with_workers(job: Job, count: int) -> Job:
    """The same training with so many workers, whatever the run file says: a trial that grew would take others' room."""
    training = job.config.train
    training = training.model_copy(update={"workers": training.workers.model_copy(update={"count": count})})
    return dataclasses.replace(job, config=job.config.model_copy(update={"train": training}))


def train_trial(job: Job, needs: Needs, gate: Gate, all_asked: Callable[[], bool]) -> bool:
    """Train a trial: in this process where it has one worker, with a crew of its own where it has several."""
    if needs.workers > 1:
        return train_with_crew(job, needs, gate, all_asked)
    import torch

    torch.set_num_threads(max(1, int(needs.cpus)))
    return run_alone(job, Outlets(gate, stop_requested=all_asked, begin=gate.begin))[0]
