"""What is due between two steps: a checkpoint, a validation, samples; and whether the run has got far enough.

In: a run that has just taken a step, or is about to take its first. Out: files and records. A checkpoint comes first,
so that nothing that follows can lose the step. All ranks call these functions together.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rayllm.train import retention
from rayllm.train.guards.early_stopping import Patience
from rayllm.train.run import Run
from rayllm.train.saving import Saver


@dataclass(frozen=True)
class Wishes:
    """What a run was asked for while it took a step; the same on every rank.

    Attributes:
        stop: To save and stop.
        save: To save and go on.
    """

    stop: bool
    save: bool


def before_steps(run: Run, saver: Saver) -> bool:
    """What is due where a start of the run begins.

    The pin and the validation that follow a commit are repeated: a kill or a stop may have come between.

    Returns:
        Whether early stopping ends the run here.
    """
    state = run.state
    if run.resumed_from and _branches(run):
        saver.pin(run.resumed_from)
    if state.step == 0:
        validate(run, saver)
    elif state.step == run.plan.total_steps:
        validate(run, saver, saved=True)
        sample(run)
    elif run.config.validation.due(state.step) and (run.resumed_from or _learns_from_validation(run)):
        return validate(run, saver, saved=True)
    return False


def _branches(run: Run) -> bool:
    """Whether forks may begin here, for which the checkpoint is kept."""
    return run.config.checkpoint.stable and run.state.step == run.stable_steps


def _learns_from_validation(run: Run) -> bool:
    """Whether something counts validations; where a fork begins its checkpoint does not know the last one."""
    return run.config.guards.early_stopping is not None or run.adaptation is not None


def after_step(run: Run, saver: Saver, wishes: Wishes) -> bool:
    """What is due after a step.

    Args:
        run: The run; its state counts the step.
        saver: Saves it.
        wishes: What it was asked for meanwhile.

    Returns:
        Whether early stopping ends the run here.
    """
    config, step = run.config, run.state.step
    done = step == run.plan.total_steps
    stop = wishes.stop
    branches = _branches(run)
    saved = done or stop or wishes.save or branches or config.checkpoint.due(step)
    if saved:
        save(run, saver)
    if branches:
        saver.pin(run.checkpoint)
    enough = False
    if done or (config.validation.due(step) and not stop):
        enough = validate(run, saver, saved=saved)
    if enough and not saved:
        save(run, saver)
    if done or enough or (config.samples.every_steps and step % config.samples.every_steps == 0 and not stop):
        sample(run)
    return enough


def save(run: Run, saver: Saver) -> None:
    """Save the current step.

    Raises:
        RunFailed: On every rank, if one could not write.
    """
    with _pause(run, "saving"):
        saver.save()


def validate(run: Run, saver: Saver, *, saved: bool = False) -> bool:
    """Measure every domain; if the weights were just saved, see whether they are the best so far.

    Returns:
        Whether early stopping has waited long enough.
    """
    with _pause(run, "validation"):
        metrics = run.services.validate(run.engine)
        run.state.validation = metrics
        run.record("validation", {"tokens": run.state.tokens, **metrics})
        if best := run.config.checkpoint.best:
            value = retention.judge(best, metrics)
            if saved:
                saver.note_best(value)
    _adapt(run, metrics)
    return _enough(run, metrics)


def _adapt(run: Run, metrics: dict[str, float]) -> None:
    """Let an adaptive mixture move; the metrics, and so the move, are the same on every rank."""
    if run.adaptation and (fields := run.adaptation.look(run.state, metrics)):
        run.record("mixture", fields)
        run.record("event", {"level": "info", "message": run.adaptation.tell(fields)})


def _enough(run: Run, metrics: dict[str, float]) -> bool:
    """Count a validation for early stopping; the metrics, and so the answer, are the same on every rank."""
    config = run.config.guards.early_stopping
    if config is None:
        return False
    patience = Patience(**run.state.early_stopping)
    enough = patience.exhausted(config, metrics)
    run.state.early_stopping = dataclasses.asdict(patience)
    if enough:
        side = "below" if config.mode == "min" else "above"
        text = f"{config.metric} was not {side} {patience.best} in the last {patience.waited} validations: the run ends"
        run.record("event", {"level": "info", "message": text})
    return enough


def sample(run: Run) -> None:
    """Let the model write."""
    with _pause(run, "samples"):
        for fields in run.services.sample(run.engine, run.state.step):
            run.record("sample", fields)


@contextlib.contextmanager
def _pause(run: Run, phase: str) -> Iterator[None]:
    """Time that is no training: the watchdog knows what goes on, and the speed leaves it out."""
    start = time.perf_counter()
    run.watchdog.beat(run.state.step, phase)
    yield
    run.speed.pause(time.perf_counter() - start)
