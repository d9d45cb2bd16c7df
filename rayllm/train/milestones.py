"""What is due between two steps: a checkpoint, a validation, samples; and whether the run has got far enough.

In: a run that has just taken a step, or is about to take its first. Out: files and records. A checkpoint comes first,
so that nothing that follows can lose the step. All ranks call these functions together.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator

from rayllm.core.checkpoint import checkpoint_name, clear_staging, staging_directory
from rayllm.core.faults import fault
from rayllm.train import collective, retention
from rayllm.train.checkpoint import stage_checkpoint
from rayllm.train.guards.early_stopping import Patience
from rayllm.train.run import Run


def before_steps(run: Run) -> bool:
    """What is due where a start of the run begins.

    Returns:
        Whether early stopping ends the run here.
    """
    state = run.state
    if state.step == 0:
        validate(run)
    elif state.step == run.plan.total_steps:  # it was stopped between its last checkpoint and what comes after
        validate(run)
        sample(run)
    elif run.config.guards.early_stopping is not None and state.step % run.config.validation.every_steps == 0:
        return validate(run, saved=True)  # early stopping counts a validation that the checkpoint does not know yet
    return False


def after_step(run: Run, *, stop: bool) -> bool:
    """What is due after a step.

    Args:
        run: The run; its state counts the step.
        stop: Whether the run was asked to save and stop.

    Returns:
        Whether early stopping ends the run here.
    """
    config, step = run.config, run.state.step
    done = step == run.plan.total_steps
    saved = done or stop or step % config.checkpoint.every_steps == 0
    if saved:
        save(run)
    enough = False
    if done or (step % config.validation.every_steps == 0 and not stop):
        enough = validate(run, saved=saved)
    if enough and not saved:
        save(run)
    if done or enough or (config.samples.every_steps and step % config.samples.every_steps == 0 and not stop):
        sample(run)
    return enough


def save(run: Run) -> None:
    """Stage on every rank, publish, prune.

    Raises:
        RunFailed: On every rank, if one cannot write.
    """
    with _pause(run, "saving"):
        state = run.state
        name = checkpoint_name(state.step, state.attempt)
        staging = staging_directory(run.checkpoints, name, run.engine.rank)
        stage_checkpoint(run.engine, state, run.attachments, staging)
        fault("save.staged", state.step, state.attempt)
        run.services.publish(staging, name)
        fault("save.published", state.step, state.attempt)
        collective.barrier()
        if run.engine.rank == 0:
            clear_staging(run.checkpoints)
            keep = run.config.checkpoint
            retention.prune(run.checkpoints, keep.keep_last, keep_best=keep.keep_best)


def validate(run: Run, *, saved: bool = False) -> bool:
    """Measure every domain; if the weights were just saved, see whether they are the best so far.

    Returns:
        Whether early stopping has waited long enough.
    """
    with _pause(run, "validation"):
        metrics = run.services.validate(run.engine)
        run.state.validation = metrics
        run.record("validation", {"tokens": run.state.tokens, **metrics})
        if run.engine.rank == 0 and saved and run.config.checkpoint.keep_best:
            name = checkpoint_name(run.state.step, run.state.attempt)
            retention.note_best(run.checkpoints, name, metrics[retention.METRIC])
    return _enough(run, metrics)


def _enough(run: Run, metrics: dict[str, float]) -> bool:
    """Count a validation for early stopping; the metrics, and so the answer, are the same on every rank."""
    config = run.config.guards.early_stopping
    if config is None:
        return False
    patience = Patience(**run.state.early_stopping)
    enough = patience.exhausted(config, metrics)
    run.state.early_stopping = dataclasses.asdict(patience)
    if enough:
        text = f"{config.metric} was not below {patience.best} in the last {patience.waited} validations: the run ends"
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
