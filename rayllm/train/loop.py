"""The one training loop: pretraining today, other objectives on the same steps.

In: an engine, batches by step, an objective, the run's state, and services that know what the loop may not (where
metrics go, how a checkpoint is published, when to stop). Out: the state after the last step. Each step is:
micro-batches → summed loss of the global batch → backward → learning rate → step → records, checkpoint, validation.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rayllm.core.checkpoint import checkpoint_name, clear_staging, staging_directory
from rayllm.core.errors import RunFailed
from rayllm.core.faults import fault
from rayllm.core.log import MetricSink
from rayllm.data.batches import Batch, prefetch
from rayllm.data.mixing.plan import Plan
from rayllm.optim.schedules import Rates, rates_at
from rayllm.train import collective, retention
from rayllm.train.checkpoint import Attachments, stage_checkpoint
from rayllm.train.config import TrainConfig
from rayllm.train.engine import Engine, StepOutcome
from rayllm.train.guards.early_stopping import Patience
from rayllm.train.guards.speed import SpeedGuard
from rayllm.train.guards.spikes import describe_spike
from rayllm.train.guards.watchdog import Watchdog
from rayllm.train.metrics import Speedometer, peak_memory_bytes
from rayllm.train.objectives import Objective
from rayllm.train.state import RunState

#: Steps in a row with a non-finite loss or gradient before the run gives up.
MAX_SKIPPED_IN_A_ROW = 3
PREFETCH_STEPS = 2


@dataclass(frozen=True)
class Services:
    """What the loop is handed.

    Attributes:
        sink: Takes records; used on rank 0 only.
        publish: Makes a staged checkpoint visible under its name; called on every rank.
        stop_requested: Whether somebody asked the run to save and stop; asked on rank 0 only.
        validate: Metrics of the current weights; called on every rank.
        sample: Samples of the current weights at a step, as record fields; called on every rank.
        audit: Looks at the first batches of this rank; gives lines for the record.
    """

    sink: MetricSink
    publish: Callable[[Path, str], None]
    stop_requested: Callable[[], bool]
    validate: Callable[[Engine], dict[str, float]]
    sample: Callable[[Engine, int], list[dict[str, str]]]
    audit: Callable[[Sequence[Batch], int], list[str]]


@dataclass(frozen=True)
class Run:
    """Everything a training run is made of.

    Attributes:
        config: Settings of ``train:``.
        engine: Weights, gradients, optimiser.
        plan: Stages of the curriculum; gives the length.
        batches: Micro-batches of a step for this rank.
        domains: Names behind ``Batch.domain``.
        objective: Loss and count of a batch.
        state: Progress; advanced by the loop.
        checkpoints: URI of the directory of checkpoints.
        attachments: Files that go into every checkpoint.
        speed: Measures tokens per second.
        slowness: Reports drops of it.
        watchdog: Is told what the rank does; ends it where that takes too long.
        services: See ``Services``.
    """

    config: TrainConfig
    engine: Engine
    plan: Plan
    batches: Callable[[int], Iterator[Batch]]
    domains: Sequence[str]
    objective: Objective
    state: RunState
    checkpoints: str
    attachments: Attachments
    speed: Speedometer
    slowness: SpeedGuard
    watchdog: Watchdog
    services: Services


def train(run: Run) -> bool:
    """Train from the state's step to the plan's last.

    Returns:
        True when the plan is done, False when the run was asked to stop and has saved.

    Raises:
        RunFailed: If the loss or gradient stays non-finite, or a checkpoint cannot be saved.
    """
    state, total = run.state, run.plan.total_steps
    if state.step == 0:
        _validate(run)
    elif state.step == total:  # it was stopped between its last checkpoint and what comes after
        _validate(run)
        _sample(run)
    elif _watched(run) and _validate(run, saved=True):
        return True
    steps = range(state.step, total)
    with contextlib.closing(prefetch((list(run.batches(step)) for step in steps), PREFETCH_STEPS)) as prepared:
        for step, micro_batches in zip(steps, prepared, strict=True):
            if step == steps.start and run.config.guards.audit:
                _audit(run, micro_batches)
            stop = _take_step(run, step, micro_batches)
            enough = _after_step(run, stop=stop, done=state.step == total)
            if enough:
                return True
            if stop and state.step < total:
                return False
            run.watchdog.beat(state.step, "reading the next batch")
    return True


def _watched(run: Run) -> bool:
    """Whether early stopping counts a validation of the current step, which a checkpoint of it does not know yet."""
    config = run.config
    return config.guards.early_stopping is not None and run.state.step % config.validation.every_steps == 0


def _audit(run: Run, micro_batches: list[Batch]) -> None:
    """Look at what is about to be learnt."""
    for line in run.services.audit(micro_batches, run.state.step + 1):
        _record(run, "event", {"level": "info", "message": line})


def _after_step(run: Run, *, stop: bool, done: bool) -> bool:
    """What is due after a step: a checkpoint first, so that nothing that follows can lose it.

    Returns:
        Whether early stopping ends the run here.
    """
    config, step = run.config, run.state.step
    save = done or stop or step % config.checkpoint.every_steps == 0
    if save:
        _save(run)
    enough = False
    if done or (step % config.validation.every_steps == 0 and not stop):
        enough = _validate(run, saved=save)
    if enough and not save:
        _save(run)
    if done or enough or (config.samples.every_steps and step % config.samples.every_steps == 0 and not stop):
        _sample(run)
    return enough


def _take_step(run: Run, step: int, micro_batches: list[Batch]) -> bool:
    """One optimizer step on the global batch; returns whether a stop was asked for."""
    state, engine = run.state, run.engine
    run.watchdog.beat(state.step + 1, "counting the batch")
    counts, stop = _global_counts(run, micro_batches)
    run.watchdog.beat(state.step + 1, "forward and backward")
    total_count = max(1.0, float(counts.sum()))
    loss_sum = torch.zeros((), dtype=torch.float64, device=engine.device)
    factor = {"nan": math.nan, "spike": 100.0}.get(fault("step", step + 1, state.attempt), 1.0)
    fault(f"rank{engine.rank}", step + 1, state.attempt)
    for batch in micro_batches:
        batch = batch.to(engine.device)
        micro_sum = run.objective.loss_sum(engine.token_losses(batch), batch)
        micro_sum = micro_sum if factor == 1.0 else micro_sum * factor
        engine.backward(micro_sum / total_count)
        loss_sum += micro_sum.detach()
    run.watchdog.beat(state.step + 1, "optimizer step")
    rates = rates_at(run.config.optimizer, run.config.schedule, step, run.plan.total_steps)
    loss = float(collective.sum_over_ranks(loss_sum.cpu().reshape(1))) / total_count
    spike = describe_spike(state.losses, loss, run.config.guards.spikes)
    skip = spike is not None and run.config.guards.spikes.action == "skip"
    outcome = engine.step(rates, discard=skip)
    domain_tokens = {name: int(count) for name, count in zip(run.domains, counts.tolist(), strict=True)}
    state.advance(loss, domain_tokens, applied=outcome.applied, harmless=outcome.lowered_scale or skip)
    state.loss_scale = engine.scaler.state_dict()
    run.speed.count(int(total_count))
    if spike:
        text = f"step {state.step}: {spike}{': the step was skipped' if skip else ''}"
        _record(run, "event", {"level": "warning", "message": text})
    if not skip:
        _guard(run, loss, outcome)
    if state.step == 1 or state.step % run.config.logging.every_steps == 0 or state.step == run.plan.total_steps:
        _log_step(run, step, loss, rates, outcome)
    return stop


def _global_counts(run: Run, micro_batches: list[Batch]) -> tuple[torch.Tensor, bool]:
    """What the global batch holds, by domain, and whether rank 0 wants to stop: one small all-reduce."""
    values = torch.zeros(len(run.domains) + 1, dtype=torch.float64)
    for batch in micro_batches:
        values[:-1].index_add_(0, batch.domain, run.objective.count(batch))
    values[-1] = float(run.engine.rank == 0 and run.services.stop_requested())
    collective.sum_over_ranks(values)
    return values[:-1], bool(values[-1])


def _guard(run: Run, loss: float, outcome: StepOutcome) -> None:
    """Report a step that was skipped; stop when it goes on."""
    if outcome.applied and math.isfinite(loss):
        return
    state = run.state
    text = f"step {state.step}: loss {loss}, gradient norm {outcome.grad_norm}: the step was skipped"
    if outcome.lowered_scale:
        text += f", the loss scale lowered to {state.loss_scale['scale']:g}"
    _record(run, "event", {"level": "warning", "message": text})
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise RunFailed(
            f"the loss or gradient was not finite for {state.skipped_in_a_row} steps in a row",
            where=f"steps {state.step - state.skipped_in_a_row} to {state.step - 1} of the data order",
            why=f"the last finite loss was {state.losses[-1]:.4f}" if state.losses else "no loss was ever finite",
            fix="lower train.optimizer.lr, lengthen the warm-up or compute in fp32; the last checkpoint is kept",
        )


def _log_step(run: Run, step: int, loss: float, rates: Rates, outcome: StepOutcome) -> None:
    _, stage, _ = run.plan.at(step)
    fields: dict[str, Any] = {
        "loss": loss if math.isfinite(loss) else None,
        "lr": rates.lr,
        "grad_norm": outcome.grad_norm if math.isfinite(outcome.grad_norm) else None,
        "tokens": run.state.tokens,
        "stage": stage.stage,
        "seq_len": stage.seq_len,
        "total_steps": run.plan.total_steps,
    }
    fields |= {"loss_scale": run.state.loss_scale["scale"]} if run.state.loss_scale else {}
    speed = run.speed.read()
    fields |= speed | {"memory_bytes": peak_memory_bytes(run.engine.device)}
    fields |= {f"tokens/{name}": count for name, count in run.state.domain_tokens.items()}
    _record(run, "train", fields)
    if said := run.slowness.look(speed["tokens_per_s"] or 0.0):
        _record(run, "event", {"level": "warning", "message": said})


def _save(run: Run) -> None:
    """Stage on every rank, publish, prune."""
    start = time.perf_counter()
    run.watchdog.beat(run.state.step, "saving")
    name = checkpoint_name(run.state.step, run.state.attempt)
    staging = staging_directory(run.checkpoints, name, run.engine.rank)
    stage_checkpoint(run.engine, run.state, run.attachments, staging)
    fault("save.staged", run.state.step, run.state.attempt)
    run.services.publish(staging, name)
    fault("save.published", run.state.step, run.state.attempt)
    collective.barrier()
    if run.engine.rank == 0:
        clear_staging(run.checkpoints)
        keep = run.config.checkpoint
        retention.prune(run.checkpoints, keep.keep_last, keep_best=keep.keep_best)
    run.speed.pause(time.perf_counter() - start)


def _validate(run: Run, *, saved: bool = False) -> bool:
    """Measure every domain; if the weights were just saved, see whether they are the best so far.

    Returns:
        Whether early stopping has waited long enough.
    """
    start = time.perf_counter()
    run.watchdog.beat(run.state.step, "validation")
    metrics = run.services.validate(run.engine)
    run.state.validation = metrics
    _record(run, "validation", {"tokens": run.state.tokens, **metrics})
    if run.engine.rank == 0 and saved and run.config.checkpoint.keep_best:
        name = checkpoint_name(run.state.step, run.state.attempt)
        retention.note_best(run.checkpoints, name, metrics[retention.METRIC])
    run.speed.pause(time.perf_counter() - start)
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
        _record(run, "event", {"level": "info", "message": text})
    return enough


def _sample(run: Run) -> None:
    start = time.perf_counter()
    run.watchdog.beat(run.state.step, "samples")
    for fields in run.services.sample(run.engine, run.state.step):
        _record(run, "sample", fields)
    run.speed.pause(time.perf_counter() - start)


def _record(run: Run, kind: str, fields: dict[str, Any]) -> None:
    if run.engine.rank == 0:
        head = {"kind": kind, "step": run.state.step, "attempt": run.state.attempt, "time": round(time.time(), 3)}
        run.services.sink.write(head | fields)
