"""What to change where memory is short: the settings that cost least, each with what it saves.

In: a ``Setting``. Out: changes as overrides of the command line. Only settings that change how a run computes are
proposed, none that changes what it learns.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from rayllm.train.memory.estimate import estimate
from rayllm.train.memory.setting import Setting

#: Share of the estimate that a change must save to be told.
WORTHWHILE = 0.02
#: Changes that are told.
TOLD = 3
#: Chunks of the loss below this many tokens save little and cost speed.
SMALLEST_CHUNK_TOKENS = 512


@dataclass(frozen=True)
class Change:
    """A change of a setting.

    Attributes:
        override: As on the command line.
        saved_bytes: On the device of a rank.
    """

    override: str
    saved_bytes: int


def advise(setting: Setting) -> list[Change]:
    """The cheapest changes that save memory, the cheapest first.

    Args:
        setting: Of the run, at the stage that needs most.
    """
    before = estimate(setting).total
    found = []
    for override, changed in _changes(setting):
        saved = before - estimate(changed).total
        if saved >= WORTHWHILE * before:
            found.append(Change(override, saved))
        if len(found) == TOLD:
            break
    return found


def _changes(setting: Setting) -> Iterator[tuple[str, Setting]]:
    """Settings that need less, from those that cost nothing to those that cost most time."""
    yield from _smaller_chunk(setting)
    yield from _fewer_rows(setting)
    if setting.stage in (1, 2) and setting.world_size > 1:
        yield f"train.engine.zero_stage={setting.stage + 1}", replace(setting, stage=setting.stage + 1)
    if setting.engine == "deepspeed" and setting.stage == 0 and setting.world_size > 1:
        yield "train.engine.zero_stage=1", replace(setting, stage=1)
    kinds = ("none", "selective", "full")
    for recompute in kinds[kinds.index(setting.shape.recompute) + 1 :]:
        changed = replace(setting, shape=replace(setting.shape, recompute=recompute))
        yield f"train.activation_checkpointing={recompute}", changed
    if setting.device == "cuda" and setting.stage >= 1 and not setting.offload_optimizer:
        yield "train.engine.offload_optimizer=true", replace(setting, offload_optimizer=True)
    if setting.device == "cuda" and setting.stage == 3 and not setting.offload_parameters:
        yield "train.engine.offload_parameters=true", replace(setting, offload_parameters=True)
    if setting.device == "cpu" and setting.snapshot:
        yield "train.checkpoint.asynchronous=false", replace(setting, snapshot=False)


def _smaller_chunk(setting: Setting) -> Iterator[tuple[str, Setting]]:
    tokens = min(setting.model.resolved_loss_chunk_tokens, setting.shape.rows * setting.shape.seq_len)
    smaller = tokens // 4
    if smaller >= SMALLEST_CHUNK_TOKENS:
        model = setting.model.model_copy(update={"loss_chunk_tokens": smaller})
        yield f"model.loss_chunk_tokens={smaller}", replace(setting, model=model)


def _fewer_rows(setting: Setting) -> Iterator[tuple[str, Setting]]:
    rows = setting.shape.rows
    if rows > 1:
        fewer = rows // 2
        times = -(-rows * setting.micro_batches // fewer)
        changed = replace(setting, shape=replace(setting.shape, rows=fewer), micro_batches=times)
        yield f"train.micro_batch_size={fewer}", changed
