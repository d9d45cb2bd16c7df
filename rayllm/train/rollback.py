"""Back to the weights of a checkpoint, forward past the batches that spoilt them.

In: a run after a step that spiked, or after too many that were not finite; that step's gradient was thrown away. Out:
weights, moments and loss history of a checkpoint from before it, at the place in the data that had been reached: the
batches in between are left out. Which ones is part of the run's state, so a resumed run leaves out the same. Nothing
here is random, and every rank does the same.

Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, section 5.1: from a checkpoint about 100 steps before the spike,
skipping the batches seen before and during it.
"""

import time

from rayllm.core.checkpoint import CheckpointRef, list_checkpoints, pin, verify_checkpoint
from rayllm.core.errors import ArtifactDamaged, RunFailed
from rayllm.core.log import get_logger
from rayllm.train import collective
from rayllm.train.checkpoint import restore
from rayllm.train.run import Run
from rayllm.train.saving import Saver

logger = get_logger(__name__)


def roll_back(run: Run, saver: Saver, cause: str) -> bool:
    """Undo the steps since a checkpoint, and leave their batches out.

    Args:
        run: Its state counts the step that is the cause; all ranks call this together.
        saver: Of its checkpoints; what is at work is waited for, so that the choice does not depend on its speed.
        cause: What happened at that step.

    Returns:
        Whether there was a checkpoint to go back to.

    Raises:
        RunFailed: If the run went back ``max_rollbacks`` times already, or a save at work failed.
    """
    state, limit = run.state, run.config.guards.spikes.max_rollbacks
    rows = run.services.rows(state.step)
    if state.rollbacks >= limit:
        raise RunFailed(
            f"training went wrong again after {limit} roll-backs",
            where=f"step {state.step}",
            why=f"{cause}; rows of the batch: {rows}",
            fix="lower train.optimizer.lr or look at the rows with `rayllm explain`; with a higher "
            "train.guards.spikes.max_rollbacks the same command goes on from the last checkpoint",
        )
    start = time.perf_counter()
    saver.wait()
    run.watchdog.beat(state.step, "going back to a checkpoint")
    uri = _choose(run)
    if not uri:
        return False
    reached, tokens, domain_tokens, mixture = state.step, state.tokens, state.domain_tokens, state.mixture
    rollbacks, left_out = state.rollbacks + 1, state.left_out
    restore(run.engine, state, uri)
    first = state.step + 1
    state.step, state.tokens, state.domain_tokens, state.mixture = reached, tokens, domain_tokens, mixture
    state.rollbacks, state.left_out = rollbacks, [*left_out, [first, reached]]
    if run.engine.rank == 0:
        pin(uri)
    text = (
        f"step {reached}: {cause}: back to {uri.rpartition('/')[2]}, which is pinned now; the batches of steps "
        f"{first} to {reached} are left out (roll-back {rollbacks} of {limit}); rows of the last: {rows}"
    )
    run.record("event", {"level": "warning", "message": text})
    run.speed.pause(time.perf_counter() - start)
    return True


def _choose(run: Run) -> str:
    """URI of the newest whole checkpoint that is old enough, else of the oldest, or nothing; rank 0 chooses for all."""
    found = ""
    if run.engine.rank == 0:
        latest = run.state.step - run.config.guards.spikes.margin_steps
        earlier = [ref for ref in list_checkpoints(run.checkpoints) if ref.step < run.state.step]
        old, young = [ref for ref in earlier if ref.step <= latest], [ref for ref in earlier if ref.step > latest]
        found = next((ref.uri for ref in [*reversed(old), *young] if _is_whole(ref)), "")
    return str(collective.broadcast(found))


def _is_whole(ref: CheckpointRef) -> bool:
    try:
        verify_checkpoint(ref.uri, deep=True)
    except ArtifactDamaged as error:
        logger.warning("%s is passed over: %s", ref.uri, error.why)
        return False
    return True
