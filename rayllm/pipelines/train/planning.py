"""The plan of a run, from its config and the sizes of its domains; needs neither torch nor ray."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rayllm.core import storage
from rayllm.core.errors import DataError
from rayllm.data.mixing.adaptive import Move, move_plan
from rayllm.data.mixing.continuing import continue_plan
from rayllm.data.mixing.curriculum import build_plan
from rayllm.data.mixing.plan import Plan, RowIndex
from rayllm.data.packing.row_index import index_row
from rayllm.data.shards.packed import PackedData
from rayllm.model.config import ModelConfig
from rayllm.model.flops import count_parameters
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.fork_source import read_plan

if TYPE_CHECKING:
    from rayllm.pipelines.train.fork import Forked

#: The stage table as a file, in a run's directory and in each of its checkpoints.
PLAN = "plan.json"


def plan_packed(config: Config, packed: PackedData, forked: "Forked | None" = None, moves: Sequence[Move] = ()) -> Plan:
    """The stage table of a run over packed data, with best-fit indexes made where they are missing.

    Args:
        config: The run.
        packed: Its data.
        forked: What it goes on from, if it is a fork.
        moves: Of an adaptive mixture so far.

    Raises:
        ConfigError: If the settings do not fit together, or not to the run before.
        DataError: If a domain is too small, or the run before has other data.
    """
    sizes = {name: packed.stream("train", name).num_tokens for name in packed.domains("train")}
    index = None if config.train.packing == "concat" else functools.partial(index_row, packed, "train")
    plan = move_plan(plan_run(config, sizes, config.model.with_vocab(packed.vocab_size), index), moves)
    if forked is None:
        return plan
    where = f"train.fork: {forked.origin.checkpoint}"
    return continue_plan(
        forked.table, forked.origin.step, plan, in_steps=config.train.max_steps is not None, where=where
    )


def plan_run(
    config: Config,
    domain_tokens: Mapping[str, int],
    model: ModelConfig,
    index: Callable[[int], RowIndex] | None = None,
) -> Plan:
    """The stage table of a run.

    Args:
        config: The run.
        domain_tokens: Training tokens of each domain.
        model: Its model with the tokenizer's vocabulary, which ``train.tokens_per_param`` counts; other budgets do not
            look at it.
        index: The best-fit rows of a length; without it, rows are slices.

    Raises:
        ConfigError: If the settings do not fit together.
        DataError: If a domain is too small.
    """
    train = config.train
    return build_plan(
        mixture=config.mixture,
        curriculum=config.curriculum,
        seq_len=train.seq_len,
        global_batch_tokens=train.global_batch_tokens,
        domain_tokens=domain_tokens,
        seed=config.seed,
        max_steps=train.max_steps,
        total_tokens=train.total_tokens(count_parameters(model).total) if train.tokens_per_param else train.tokens,
        index=index,
    )


def check_plan(plan: Plan, checkpoint_uri: str) -> None:
    """Refuse to go on from a checkpoint with other data than it was trained on.

    Raises:
        DataError: Naming the part of the plan that differs.
    """
    saved = read_plan(checkpoint_uri)
    names = [field.name for field in dataclasses.fields(Plan)]
    different = [name for name in names if getattr(saved, name) != getattr(plan, name)]
    if different:
        raise DataError(
            "the checkpoint was trained on other data, or in another order, than this run would go on with",
            where=storage.join(checkpoint_uri, PLAN),
            why=f"{', '.join(different)} of its plan: {_short(saved, different)}; now {_short(plan, different)}",
            fix="restore the packed artifact and the version of rayllm that the run was started with, or start anew "
            "under another `name`",
        )


def _short(plan: Plan, names: Sequence[str]) -> str:
    return ", ".join(f"{getattr(plan, name)}"[:200] for name in names)
