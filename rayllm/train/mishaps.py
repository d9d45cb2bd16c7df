"""What is done about a step that went wrong: a spike of the loss, or a loss or gradient that is not finite.

In: a run after the step, whose gradient was thrown away where the settings say so. Out: events; weights of an earlier
checkpoint, where the settings say that; or the end of the run. Whatever is decided is the same on every rank, because
it is decided from sums over all ranks.
"""

import math

from rayllm.core.errors import RunFailed
from rayllm.train.engine import StepOutcome
from rayllm.train.rollback import roll_back
from rayllm.train.run import Run
from rayllm.train.saving import Saver

#: Steps in a row with a non-finite loss or gradient before the run goes back or gives up.
MAX_SKIPPED_IN_A_ROW = 3


def answer(run: Run, saver: Saver, loss: float, spike: str | None, outcome: StepOutcome) -> bool:
    """Report a step that went wrong, and do what the settings say; nothing after a good one.

    Args:
        run: Its state counts the step; all ranks call this together.
        saver: Of its checkpoints.
        loss: Of the step.
        spike: What makes its loss a spike, or None.
        outcome: What the optimizer step did.

    Returns:
        Whether the weights are again those of a checkpoint; what the run is now should be saved.

    Raises:
        RunFailed: If it goes on and on.
    """
    if spike:
        return _answer_spike(run, saver, spike)
    if outcome.applied and math.isfinite(loss):
        return False
    return _answer_skipped(run, saver, loss, outcome)


def _answer_spike(run: Run, saver: Saver, spike: str) -> bool:
    action, state = run.config.guards.spikes.action, run.state
    if action == "rollback" and roll_back(run, saver, spike):
        return True
    text = f"step {state.step}: {spike}"
    if action != "report":
        state.left_out = [*state.left_out, [state.step, state.step]]
        text += ": the step was skipped"
    if action == "rollback":
        text += ", since there is no checkpoint yet to go back to"
    _warn(run, text)
    return False


def _answer_skipped(run: Run, saver: Saver, loss: float, outcome: StepOutcome) -> bool:
    state = run.state
    text = f"step {state.step}: loss {loss}, gradient norm {outcome.grad_norm}: the step was skipped"
    if outcome.lowered_scale:
        text += f", the loss scale lowered to {state.loss_scale['scale']:g}"
    _warn(run, text)
    if state.skipped_in_a_row < MAX_SKIPPED_IN_A_ROW:
        return False
    cause = f"the loss or gradient was not finite for {state.skipped_in_a_row} steps in a row"
    if run.config.guards.spikes.action == "rollback" and roll_back(run, saver, cause):
        return True
    last = f"the last finite loss was {state.losses[-1]:.4f}" if state.losses else "no loss was ever finite"
    raise RunFailed(
        cause,
        where=f"steps {state.step - state.skipped_in_a_row} to {state.step - 1} of the data order",
        why=f"{last}; rows of the last batch: {run.services.rows(state.step)}",
        fix="lower train.optimizer.lr, lengthen the warm-up, compute in fp32, or set "
        "train.guards.spikes.action=rollback; the last checkpoint is kept",
    )


def _warn(run: Run, text: str) -> None:
    run.record("event", {"level": "warning", "message": text})
