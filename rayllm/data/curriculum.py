"""The curriculum of a run: what the run file says, laid out as a ``Plan``.

In: domain weights, curriculum stages, sequence length, batch, a budget in steps or tokens, the sizes of the domains.
Out: the stage table, in which every step has its stage and every setting is known to fit.
"""

from collections.abc import Mapping, Sequence

from pydantic import Field

from rayllm.core.config import ConfigModel, Count
from rayllm.core.errors import ConfigError, DataError
from rayllm.data.plan import Plan, StageRow
from rayllm.data.weights import MixtureConfig, Weights, domain_shares, quantize


class CurriculumStage(ConfigModel):
    """A part of the run with its own sequence length, batch or weights; what is not set is the run's."""

    frac: float = Field(..., gt=0, le=1, description="Share of the run's tokens; the shares of all stages sum to 1.")
    weights: Weights | None = Field(None, description="Domain weights of this stage, as `mixture.weights`.")
    seq_len: int | None = Field(None, ge=2, description="Tokens of a row; must divide the longest of all stages.")
    global_batch_tokens: Count | None = Field(None, ge=1, description="Tokens of one optimizer step.")


def stage_shapes(stages: Sequence[CurriculumStage], seq_len: int, global_batch_tokens: int) -> list[tuple[int, int]]:
    """Sequence length and rows of the global batch of every stage; one stage where none is given.

    Args:
        stages: The curriculum.
        seq_len: The run's sequence length, for stages that set none.
        global_batch_tokens: The run's tokens of a step, for stages that set none.

    Raises:
        ValueError: If the shares do not sum to 1, a batch is no whole number of rows, or a length does not divide the
            longest one.
    """
    if stages and abs(sum(stage.frac for stage in stages) - 1) > 1e-6:
        total = sum(stage.frac for stage in stages)
        raise ValueError(f"the shares `frac` of the curriculum sum to {total:g}: make them sum to 1")
    lengths = [stage.seq_len or seq_len for stage in stages] or [seq_len]
    batches = [stage.global_batch_tokens or global_batch_tokens for stage in stages] or [global_batch_tokens]
    for index, (length, batch) in enumerate(zip(lengths, batches, strict=True)):
        where = f"curriculum stage {index}: " if stages else ""
        if batch % length:
            near = " or ".join(
                f"{value:,}" for value in (batch // length * length, -(-batch // length) * length) if value
            )
            raise ValueError(
                f"{where}a batch of {batch:,} tokens is no whole number of rows of {length:,}: "
                f"set `global_batch_tokens` to {near}"
            )
        if max(lengths) % length:
            raise ValueError(
                f"{where}seq_len {length:,} does not divide the longest one, {max(lengths):,}: "
                f"set it to a divisor such as {_divisor_below(max(lengths), length):,}"
            )
    return [(length, batch // length) for length, batch in zip(lengths, batches, strict=True)]


def _divisor_below(whole: int, limit: int) -> int:
    return next(value for value in range(limit, 0, -1) if whole % value == 0)


def build_plan(
    *,
    mixture: MixtureConfig,
    curriculum: Sequence[CurriculumStage],
    seq_len: int,
    global_batch_tokens: int,
    domain_tokens: Mapping[str, int],
    seed: int,
    max_steps: int | None = None,
    total_tokens: int | None = None,
) -> Plan:
    """Lay out a run.

    Args:
        mixture: Domain weights of stages that set none.
        curriculum: The stages; one stage for the whole run if empty.
        seq_len: Tokens of a row, for stages that set none.
        global_batch_tokens: Tokens of a step, for stages that set none.
        domain_tokens: Tokens of each domain.
        seed: The run's seed.
        max_steps: Budget in optimizer steps, kept exactly. Either this or ``total_tokens``.
        total_tokens: Budget in tokens, kept to the nearest step.

    Raises:
        ConfigError: If the settings do not fit together or name an unknown domain.
        DataError: If a domain is smaller than one block.
    """
    if (max_steps is None) == (total_tokens is None):
        raise ConfigError("a run needs one budget", fix="set either the steps or the tokens, and not both")
    try:
        shapes = stage_shapes(curriculum, seq_len, global_batch_tokens)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    fracs = [stage.frac for stage in curriculum] or [1.0]
    steps = _stage_steps(fracs, [length * rows for length, rows in shapes], max_steps, total_tokens)
    weights = [
        quantize(list(domain_shares(choice, domain_tokens, where).values()))
        for where, choice in stage_weights(mixture, curriculum)
    ]
    stages = tuple(
        StageRow(count, length, rows, row) for count, (length, rows), row in zip(steps, shapes, weights, strict=True)
    )
    plan = Plan(seed, dict(domain_tokens), stages)
    _check_sizes(plan)
    return plan


def stage_weights(mixture: MixtureConfig, curriculum: Sequence[CurriculumStage]) -> list[tuple[str, Weights]]:
    """The weights of each stage, with the setting that they stand in; one where there is no curriculum."""
    chosen: list[tuple[str, Weights]] = []
    for index, stage in enumerate(curriculum):
        own = stage.weights
        chosen.append(("mixture.weights", mixture.weights) if own is None else (f"curriculum.{index}.weights", own))
    return chosen or [("mixture.weights", mixture.weights)]


def _stage_steps(
    fracs: Sequence[float], step_tokens: Sequence[int], max_steps: int | None, total_tokens: int | None
) -> list[int]:
    """Steps of every stage, so that stages hold their shares of the tokens and all steps sum to the budget."""
    per_token = [frac / tokens for frac, tokens in zip(fracs, step_tokens, strict=True)]
    exact = [share * (total_tokens or 0) for share in per_token]
    if max_steps is not None:
        exact = [share / sum(per_token) * max_steps for share in per_token]
    total = max_steps or round(sum(exact))
    steps = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(steps)), key=lambda i: steps[i] - exact[i])
    for index in by_remainder[: total - sum(steps)]:
        steps[index] += 1
    if 0 in steps:
        raise ConfigError(
            f"stage {steps.index(0)} of the run gets no step",
            where="curriculum",
            why=f"the budget allows {sum(exact):.2g} steps, and the stage has {exact[steps.index(0)]:.2g} of them",
            fix="train longer, use smaller batches, or raise the stage's `frac`",
        )
    return steps


def _check_sizes(plan: Plan) -> None:
    for index, (name, blocks) in enumerate(zip(plan.domains, plan.domain_blocks, strict=True)):
        if blocks == 0 and any(stage.weights[index] for stage in plan.stages):
            tokens = plan.domain_tokens[name]
            raise DataError(
                f"domain {name} is too small",
                why=f"it has {tokens:,} tokens; one block of the longest sequence needs {plan.block_tokens + 1:,}",
                fix=f"use a seq_len below {max(tokens, 2):,}, add documents, or set its weight to 0",
            )
