"""The stages of a curriculum: what the run file says about each, and how many steps that makes.

In: the list of stages, the run's sequence length and batch, a budget. Out: sequence length, rows and steps of every
stage. Nothing here looks at data, so that a run file is checked before there is any.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from rayllm.core.config import ConfigModel, Count
from rayllm.data.mixing.weights import Temperature, Weights


class CurriculumStage(ConfigModel):
    """A part of the run with its own sequence length, batch or weights; what is not set is the run's."""

    frac: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the run's tokens, or of those that stages with `steps` or `tokens` leave; all shares sum "
        "to 1. Every stage has one of `frac`, `steps` and `tokens`.",
    )
    steps: Count | None = Field(default=None, ge=1, description="Length in optimizer steps.")
    tokens: Count | None = Field(default=None, ge=1, description="Length in tokens, kept to the nearest step.")
    weights: Weights | None = Field(default=None, description="Domain weights of this stage, as `mixture.weights`.")
    temperature: Temperature | None = Field(
        default=None,
        description="As `mixture.temperature`, of this stage; by default 1 where the stage has weights of its own.",
    )
    interpolate: Literal["linear"] | None = Field(
        default=None,
        description="`linear`: the weights move from those of the stage before to this stage's over its length.",
    )
    from_weights: Weights | None = Field(
        default=None, description="Weights at which `interpolate` begins, in place of those of the stage before."
    )
    seq_len: int | None = Field(
        default=None, ge=2, description="Tokens of a row; must divide the longest of all stages."
    )
    global_batch_tokens: Count | None = Field(default=None, ge=1, description="Tokens of one optimizer step.")

    @model_validator(mode="after")
    def _says_its_length_once(self) -> "CurriculumStage":
        given = [name for name in ("frac", "steps", "tokens") if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"it has {' and '.join(given)}" if given else "it has none"
            raise ValueError(f"a stage needs exactly one of `frac`, `steps` and `tokens`; {found}")
        if self.from_weights is not None and not self.interpolate:
            raise ValueError("`from_weights` is where `interpolate: linear` begins: set that too, or remove it")
        return self


def check_stages(stages: list[CurriculumStage]) -> list[CurriculumStage]:
    """Refuse stages that cannot follow each other.

    Raises:
        ValueError: If the shares do not sum to 1, or the first stage has nothing to move its weights from.
    """
    fracs = [stage.frac for stage in stages if stage.frac is not None]
    if fracs and abs(sum(fracs) - 1) > 1e-6:
        raise ValueError(f"the shares `frac` of the curriculum sum to {sum(fracs):g}: make them sum to 1")
    if stages and stages[0].interpolate and stages[0].from_weights is None:
        raise ValueError(
            "the first stage has `interpolate`, and no stage before it: give it `from_weights`, or put a stage first"
        )
    return stages


#: The stages of a run file, in order.
Curriculum = Annotated[list[CurriculumStage], AfterValidator(check_stages)]


def stage_shapes(stages: Sequence[CurriculumStage], seq_len: int, global_batch_tokens: int) -> list[tuple[int, int]]:
    """Sequence length and rows of the global batch of every stage; one stage where none is given.

    Args:
        stages: The curriculum.
        seq_len: The run's sequence length, for stages that set none.
        global_batch_tokens: The run's tokens of a step, for stages that set none.

    Raises:
        ValueError: If a batch is no whole number of rows, or a length does not divide the longest one.
    """
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


def stage_steps(
    stages: Sequence[CurriculumStage],
    step_tokens: Sequence[int],
    *,
    max_steps: int | None = None,
    total_tokens: int | None = None,
) -> list[int]:
    """Optimizer steps of every stage; those with ``steps`` or ``tokens`` take theirs, the others share what is left.

    Args:
        stages: The curriculum; one stage for the whole run if empty.
        step_tokens: Tokens of a step of each stage.
        max_steps: Budget in steps, kept exactly. Either this or ``total_tokens``.
        total_tokens: Budget in tokens, kept to the nearest step.

    Raises:
        ValueError: If a stage gets no step, or the stages do not fill the budget.
    """
    stages = stages or [CurriculumStage(frac=1.0)]
    steps = [_own_steps(stage, tokens) for stage, tokens in zip(stages, step_tokens, strict=True)]
    unit, budget = ("steps", max_steps) if max_steps is not None else ("tokens", total_tokens)
    assert budget is not None, "a run has a budget"
    taken = sum(count * (1 if unit == "steps" else tokens) for count, tokens in zip(steps, step_tokens, strict=True))
    sharing = [index for index, stage in enumerate(stages) if stage.frac is not None]
    if not sharing:
        _check_filled(stages, step_tokens, unit, budget, taken)
    else:
        fracs = [stages[index].frac or 0.0 for index in sharing]
        shared = _share_out(fracs, [step_tokens[index] for index in sharing], unit, max(budget - taken, 0))
        for index, count in zip(sharing, shared, strict=True):
            steps[index] = count
    if 0 in steps:
        left = f", and stages of a length of their own take {taken:,}" if taken else ""
        raise ValueError(
            f"stage {steps.index(0)} of the run gets no step: the budget is {budget:,} {unit}{left}; train longer, use "
            "smaller batches, or make the stage longer"
        )
    return steps


def _own_steps(stage: CurriculumStage, step_tokens: int) -> int:
    return stage.steps or 0 if stage.tokens is None else round(stage.tokens / step_tokens)


def _check_filled(
    stages: Sequence[CurriculumStage], step_tokens: Sequence[int], unit: str, budget: int, taken: int
) -> None:
    """Stages that all know their length must sum to the budget; in tokens, up to what rounding to steps changes."""
    slack = 0 if unit == "steps" else sum(step_tokens[i] for i, stage in enumerate(stages) if stage.tokens) / 2
    slack += 0 if unit == "steps" else max(step_tokens) / 2
    if abs(taken - budget) > slack:
        setting = "train.max_steps" if unit == "steps" else "train.tokens"
        raise ValueError(
            f"the stages of the curriculum hold {taken:,} {unit}, and the budget is {budget:,}: set `{setting}` to "
            f"{taken:,}, or give one stage `frac: 1` to take the rest"
        )


def _share_out(fracs: Sequence[float], step_tokens: Sequence[int], unit: str, budget: int) -> list[int]:
    """Steps of each stage, so that stages hold their shares of the tokens and all steps sum to the budget."""
    per_token = [frac / tokens for frac, tokens in zip(fracs, step_tokens, strict=True)]
    scale = budget / sum(per_token) if unit == "steps" else budget
    exact = [share * scale for share in per_token]
    total = budget if unit == "steps" else round(sum(exact))
    steps = [int(value + 1e-9) for value in exact]
    by_remainder = sorted(range(len(steps)), key=lambda i: steps[i] - exact[i])
    for index in by_remainder[: total - sum(steps)]:
        steps[index] += 1
    return steps
