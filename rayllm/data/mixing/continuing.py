"""The plan of a run that goes on where another one was: its rows up to a step, and then its own.

In: the table of the run before, the step, and the table that the run would have alone. Out: one table. Epochs go on
across it like across the stages of a curriculum: no row comes twice before each of its domain came once.
"""

import dataclasses

from rayllm.core.errors import ConfigError, DataError
from rayllm.data.mixing.plan import Plan, StageRow


def continue_plan(before: Plan, step: int, own: Plan, *, in_steps: bool = True, where: str = "") -> Plan:
    """Put two tables together.

    A row of the table that the run would itself have gone on with is not broken: its draws go on. So a run with equal
    settings has an equal table, and reads what the run before it would have read. With another seed what is left of
    the epochs comes in another order.

    Args:
        before: The plan of the run before.
        step: Steps that it has taken.
        own: The plan of the run that goes on, as if it had begun at step 0.
        in_steps: Whether the run's budget is in steps; one in tokens holds only if both runs read as many until then.
        where: The setting that names the run before, for errors.

    Raises:
        ConfigError: If the run would have nothing left to do, or reads longer rows.
        DataError: If the domains, their sizes or their rows differ.
    """
    _check_domains(before, own, where)
    if step >= own.total_steps:
        raise ConfigError(
            f"the run would go on at step {step:,}, and ends at step {own.total_steps:,}",
            where=where,
            fix="train longer: the budget counts from the beginning of the run before; or name an earlier step",
        )
    if not in_steps and own.tokens_before(step) != before.tokens_before(step):
        raise ConfigError(
            "a budget in tokens cannot be kept",
            where=f"train, {where}",
            why=f"until step {step:,} the run before read {before.tokens_before(step):,} tokens, and this run with its "
            f"batches would have read {own.tokens_before(step):,}",
            fix="give the budget as `train.max_steps`",
        )
    head = rows_until(before, step)
    rows = _join(head, _shuffled(_rows_from(own, step), head, before.seed, own.seed), broken=own.at(step)[2] == 0)
    indexes = {index.seq_len: index for index in (*before.indexes, *own.indexes)}
    lengths = sorted({row.seq_len for row in rows} & indexes.keys())
    plan = dataclasses.replace(
        own, seed=before.seed, stages=tuple(rows), indexes=tuple(indexes[length] for length in lengths)
    )
    if plan.packing == "concat" and plan.block_tokens != before.block_tokens:
        raise ConfigError(
            "the run would cut the data into other blocks than the run before it, and so repeat what was read",
            where=where,
            why=f"its longest rows have {plan.block_tokens:,} tokens, those of the run before {before.block_tokens:,}",
            fix=f"keep a stage with `seq_len: {before.block_tokens}`, and none that is longer",
        )
    return plan


def rows_until(plan: Plan, step: int) -> list[StageRow]:
    """The rows of the table that cover the first steps, the last one cut short."""
    found, left = [], step
    for row in plan.stages:
        if left > 0:
            found.append(dataclasses.replace(row, steps=min(row.steps, left)))
        left -= row.steps
    return found


def _rows_from(plan: Plan, step: int) -> list[StageRow]:
    index, row, done = plan.at(step)
    return [dataclasses.replace(row, steps=row.steps - done), *plan.stages[index + 1 :]]


def _shuffled(tail: list[StageRow], head: list[StageRow], first_seed: int, seed: int) -> list[StageRow]:
    """Rows that come in the order of a seed, after others that came in the order of theirs."""
    current = head[-1].shuffle if head else None
    shuffle = current if seed == (first_seed if current is None else current) else seed
    return [dataclasses.replace(row, shuffle=shuffle) for row in tail]


def _join(head: list[StageRow], tail: list[StageRow], *, broken: bool) -> list[StageRow]:
    """Two parts of a table; one row where the same one goes on, unless it is ``broken`` there by itself."""
    if not head or broken or dataclasses.replace(head[-1], steps=tail[0].steps) != tail[0]:
        return [*head, *tail]
    return [*head[:-1], dataclasses.replace(head[-1], steps=head[-1].steps + tail[0].steps), *tail[1:]]


def _check_domains(before: Plan, own: Plan, where: str) -> None:
    if before.packing != own.packing:
        raise ConfigError(
            "the run before has rows of another kind",
            where=f"train.packing, {where}",
            why=f"{before.packing} there, {own.packing} here",
        )
    shared = {index.seq_len: index for index in before.indexes}
    other = [index.seq_len for index in own.indexes if shared.get(index.seq_len, index) != index]
    if before.domain_tokens != own.domain_tokens or other:
        raise DataError(
            "the run before was trained on other data",
            where=where,
            why=f"rows of {other} tokens differ"
            if other
            else f"{before.domain_tokens} there, {own.domain_tokens} here",
            fix="give this run the sources, the tokenizer and the packing of the run before",
        )
