"""The one training loop: pretraining, fine-tuning and preferences are objectives on the same steps.

In: an engine, batches by step, an objective, the run's state, and services that know what the loop may not (where
metrics go, how a checkpoint is published, when to stop). Out: the state after the last step. Each step is:
micro-batches → summed loss of the global batch → backward → learning rate → step → records, checkpoint, validation.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rayllm.core.faults import fault
from rayllm.data.batches import Batch, prefetch
from rayllm.data.mixing.plan import StageRow
from rayllm.optim.schedules import Rates, rates_at
from rayllm.train import collective, milestones, mishaps
from rayllm.train.engine import StepOutcome
from rayllm.train.guards.continuity import RESUMED_STEPS, describe_break
from rayllm.train.guards.spikes import describe_spike
from rayllm.train.metrics import peak_memory_bytes
from rayllm.train.milestones import Wishes
from rayllm.train.objectives import supervised_tokens
from rayllm.train.run import Run
from rayllm.train.saving import Saver

PREFETCH_STEPS = 2


def train(run: Run) -> bool:
    """Train from the state's step to the plan's last.

    Returns:
        True when the plan is done, False when the run was asked to stop and has saved.

    Raises:
        RunFailed: If the loss or gradient stays non-finite, or a checkpoint cannot be saved.
    """
    with Saver(run) as saver:
        return milestones.before_steps(run, saver) or _take_steps(run, saver)


def _take_steps(run: Run, saver: Saver) -> bool:
    """Take the steps that are left; returns whether the run is done."""
    begun, before = run.state.step, tuple(run.state.losses)
    while run.state.step < run.plan.total_steps:
        ended = _take_steps_of_table(run, saver, begun, before)
        if ended is not None:
            return ended
    return True


def _take_steps_of_table(run: Run, saver: Saver, begun: int, before: Sequence[float]) -> bool | None:
    """Steps up to a move of the mixture, since what is read ahead is of the table before it; None after a move.

    Args:
        run: The run.
        saver: Saves it.
        begun: The step at which this start of the run began.
        before: Its losses then.
    """
    state, total, moves = run.state, run.plan.total_steps, run.moves
    steps = range(state.step, total)
    with contextlib.closing(prefetch((list(run.batches(step)) for step in steps), PREFETCH_STEPS)) as prepared:
        for step, micro_batches in zip(steps, prepared, strict=True):
            if step == begun and run.config.guards.audit:
                _audit(run, micro_batches)
            wishes = _take_step(run, saver, step, micro_batches)
            if step - begun + 1 == RESUMED_STEPS:
                _compare_with_before(run, before)
            if milestones.after_step(run, saver, wishes):
                return True
            if wishes.stop and state.step < total:
                return False
            run.watchdog.beat(state.step, "reading the next batch")
            if run.moves != moves:
                return None
    return True


def _audit(run: Run, micro_batches: list[Batch]) -> None:
    """Look at what is about to be learnt."""
    for line in run.services.audit(micro_batches, run.state.step + 1):
        run.record("event", {"level": "info", "message": line})


def _compare_with_before(run: Run, before: Sequence[float]) -> None:
    """See whether a resumed run goes on where its checkpoint was; a new run has nothing before."""
    if said := describe_break(before, run.state.losses[-RESUMED_STEPS:]):
        run.record("event", {"level": "warning", "message": said})


def _take_step(run: Run, saver: Saver, step: int, micro_batches: list[Batch]) -> Wishes:
    """One optimizer step on the global batch; returns what the run was asked for."""
    state, engine = run.state, run.engine
    run.watchdog.beat(state.step + 1, "counting the batch")
    agreement = _begin_agreement(run, saver, micro_batches)
    run.watchdog.beat(state.step + 1, "forward and backward")
    names = ("loss", *run.objective.measures)
    sums = torch.zeros(len(names), dtype=torch.float64, device=engine.device)
    factor, told = _break(engine.rank, step + 1, state.attempt)
    for batch in micro_batches:
        batch = batch.to(engine.device)
        micro_sums = run.objective.sums(engine.token_losses(batch), batch)
        micro_sums = micro_sums if factor == 1.0 else micro_sums * factor
        engine.backward(micro_sums[0] / agreement().count)
        sums += micro_sums.detach()
    sums[0] += told
    agreed = agreement()
    run.watchdog.beat(state.step + 1, "optimizer step")
    rates = rates_at(run.config.optimizer, run.config.schedule, step, run.plan.total_steps)
    means = (collective.sum_over_ranks(sums.cpu()) / agreed.count).tolist()
    loss, measured = means[0], dict(zip(names[1:], means[1:], strict=True))
    spike = describe_spike(state.losses, loss, run.config.guards.spikes)
    unwanted = spike is not None and run.config.guards.spikes.action != "report"
    discard = unwanted or not math.isfinite(loss)  # whatever its gradient is
    logged = step == 0 or (step + 1) % run.config.logging.every_steps == 0 or step + 1 == run.plan.total_steps
    update_ratios = run.update_ratios if logged else None
    before = update_ratios.look() if update_ratios else None
    outcome = engine.step(rates, discard=discard)
    moved = update_ratios.since(before) if update_ratios and before is not None else dict
    domain_tokens = {name: int(number) for name, number in zip(run.domains, agreed.tokens.tolist(), strict=True)}
    state.advance(loss, domain_tokens, applied=outcome.applied, harmless=outcome.lowered_scale or discard)
    state.loss_scale = engine.scaler.state_dict()
    _, stage, _ = run.plan.at(step)
    run.speed.count(int(agreed.tokens.sum()), stage.batch_rows, stage.seq_len)
    went_back = mishaps.answer(run, saver, loss, spike, outcome)
    if logged:
        _log_step(run, stage, loss, rates, outcome, measured | moved())
    return dataclasses.replace(agreed.wishes, save=agreed.wishes.save or went_back)


def _break(rank: int, step: int, attempt: int) -> tuple[float, float]:
    """What faults make of a step's loss: a factor of the loss, and what is added where its value is told."""
    actions = fault("step", step, attempt), fault(f"rank{rank}", step, attempt)
    factor = math.prod({"nan": math.nan, "spike": 100.0}.get(action, 1.0) for action in actions)
    return factor, sum({"told_nan": math.nan, "told_inf": math.inf}.get(action, 0.0) for action in actions)


@dataclass(frozen=True)
class Agreement:
    """What all ranks know of a step.

    Attributes:
        tokens: Supervised tokens of the global batch by domain.
        count: Its labels, as the objective counts them, at least 1, which the loss is divided by.
        wishes: What rank 0 was asked for.
    """

    tokens: torch.Tensor
    count: float
    wishes: Wishes


def _begin_agreement(run: Run, saver: Saver, micro_batches: list[Batch]) -> Callable[[], Agreement]:
    """Begin the one small all-reduce that a step is agreed on with; ranks go forward until they need what it gives.

    Returns:
        Gives it, as soon as all ranks have begun the step. Raises a RayllmError, on every rank, if a save that was at
        work has failed on one.
    """
    fault(f"rank{run.engine.rank}.agreement", run.state.step + 1, run.state.attempt)
    values = torch.zeros(len(run.domains) + 4, dtype=torch.float64)
    tokens, count, said = values[:-4], values[-4:-3], values[-3:]
    for batch in micro_batches:
        tokens.index_add_(0, batch.domain, supervised_tokens(batch))
        count += run.objective.count(batch).sum()
    notice = ""
    if run.engine.rank == 0:
        notice = run.services.notice()
        said[0], said[1] = float(run.services.stop_requested()), float(bool(notice))
    said[2] = float(saver.failed)
    wait = collective.begin_sum(values)

    @functools.cache
    def agreement() -> Agreement:
        wait()
        run.watchdog.beat(run.state.step + 1, "forward and backward")
        if said[2]:
            saver.wait()
        if notice:
            run.record("event", {"level": "warning", "message": f"{notice}: saving after this step"})
        return Agreement(tokens, max(1.0, float(count)), Wishes(stop=bool(said[0]), save=bool(said[1])))

    return agreement


def _log_step(
    run: Run, stage: StageRow, loss: float, rates: Rates, outcome: StepOutcome, more: dict[str, float]
) -> None:
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
    fields |= more | {f"tokens/{name}": count for name, count in run.state.domain_tokens.items()}
    run.record("train", fields)
    if said := run.slowness.look(run.speed.row_tokens_per_s):
        run.record("event", {"level": "warning", "message": said})
