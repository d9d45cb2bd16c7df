"""The curriculum of a run: what the run file says, laid out as a ``Plan``.

In: domain weights, curriculum stages, sequence length, batch, a budget in steps or tokens, the sizes of the domains.
Out: the stage table, in which every step has its stage and every setting is known to fit. A stage whose weights move
becomes several rows of the table, each with weights of its own: the table says all, nothing is computed while training.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from rayllm.core.errors import ConfigError, DataError
from rayllm.data.mixing.plan import Plan, RowIndex, StageRow
from rayllm.data.mixing.repetition import redistribute
from rayllm.data.mixing.stages import CurriculumStage, check_stages, stage_shapes, stage_steps
from rayllm.data.mixing.weights import (
    PERIOD,
    MixtureConfig,
    Weights,
    check_known,
    check_names,
    domain_shares,
    quantize,
)

#: Rows of the table that a stage with moving weights becomes: at most, and at least where the stage has as many steps.
MAX_PIECES = 64
MIN_PIECES = 8

Shares = list[float]


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
    index: Callable[[int], RowIndex] | None = None,
) -> Plan:
    """Lay out a run.

    Args:
        mixture: Domain weights of stages that set none, and repetition caps.
        curriculum: The stages; one stage for the whole run if empty.
        seq_len: Tokens of a row, for stages that set none.
        global_batch_tokens: Tokens of a step, for stages that set none.
        domain_tokens: Tokens of each domain.
        seed: The run's seed.
        max_steps: Budget in optimizer steps, kept exactly. Either this or ``total_tokens``.
        total_tokens: Budget in tokens, kept to the nearest step.
        index: For best-fit packing, the rows of a length; None for rows that are slices.

    Raises:
        ConfigError: If the settings do not fit together or name an unknown domain.
        DataError: If a domain is smaller than one block.
    """
    if (max_steps is None) == (total_tokens is None):
        raise ConfigError("a run needs one budget", fix="set either the steps or the tokens, and not both")
    try:
        check_stages(list(curriculum))
        shapes = stage_shapes(curriculum, seq_len, global_batch_tokens)
        step_tokens = [length * rows for length, rows in shapes]
        steps = stage_steps(curriculum, step_tokens, max_steps=max_steps, total_tokens=total_tokens)
    except ValueError as error:
        raise ConfigError(str(error), where="curriculum" if curriculum else "train") from error
    paths = _weight_paths(mixture, curriculum, domain_tokens)
    longest = max(length for length, _ in shapes)
    rows: list[StageRow] = []
    shares: list[Shares] = []
    for stage, ((length, batch_rows), count, (start, end)) in enumerate(zip(shapes, steps, paths, strict=True)):
        rows_per_draw = longest // length if index is None else 1
        pieces = [count] if start == end else piece_steps(count, batch_rows, rows_per_draw)
        rows += [StageRow(piece, length, batch_rows, (0,) * len(domain_tokens), stage) for piece in pieces]
        shares += _along(start, end, pieces)
    plan = Plan(seed, dict(domain_tokens), tuple(rows))
    if index is not None:
        lengths = sorted({length for length, _ in shapes})
        plan = dataclasses.replace(plan, packing="best_fit", indexes=tuple(map(index, lengths)))
    return _weighted(plan, shares, mixture)


def _weighted(empty: Plan, shares: list[Shares], mixture: MixtureConfig) -> Plan:
    """Give the rows of a plan their weights, kept below the caps where that was asked for."""
    held: frozenset[int] = frozenset()
    if mixture.cap == "redistribute":
        shares, held = redistribute(shares, empty.full_epochs(), mixture.caps(empty.domains))
    rows = zip(empty.stages, shares, strict=True)
    plan = dataclasses.replace(
        empty, stages=tuple(dataclasses.replace(row, weights=quantize(own, held)) for row, own in rows)
    )
    _check_sizes(plan)
    return plan


def check_domains(mixture: MixtureConfig, curriculum: Sequence[CurriculumStage], known: Sequence[str]) -> None:
    """Refuse settings that name a domain that is not there, or weights that leave one out.

    Raises:
        ConfigError: Naming the first such domain, with the setting that it stands in.
    """
    check_names(mixture.weights, known, "mixture.weights")
    for name in mixture.max_epochs if isinstance(mixture.max_epochs, dict) else ():
        check_known(name, known, "mixture.max_epochs")
    for index, stage in enumerate(curriculum):
        for setting in ("weights", "from_weights"):
            own: Weights | None = getattr(stage, setting)
            if own is not None:
                check_names(own, known, f"curriculum.{index}.{setting}")


def _weight_paths(
    mixture: MixtureConfig, curriculum: Sequence[CurriculumStage], sizes: Mapping[str, int]
) -> list[tuple[Shares, Shares]]:
    """The shares at which each stage begins and ends: the same, unless its weights move."""
    check_domains(mixture, curriculum, list(sizes))
    stages = curriculum or [CurriculumStage(frac=1.0)]
    paths: list[tuple[Shares, Shares]] = []
    for index, stage in enumerate(stages):
        end = _own_shares(mixture, stage, sizes, index)
        start = end
        if stage.from_weights is not None:
            start = list(domain_shares(stage.from_weights, sizes, f"curriculum.{index}.from_weights").values())
        elif stage.interpolate:
            start = paths[-1][1]
        paths.append((start, end))
    return paths


def _own_shares(mixture: MixtureConfig, stage: CurriculumStage, sizes: Mapping[str, int], index: int) -> Shares:
    """A stage's shares. A temperature belongs to the weights beside it: the run's does not touch a stage's own."""
    if stage.weights is None:
        temperature = mixture.temperature if stage.temperature is None else stage.temperature
        return list(domain_shares(mixture.weights, sizes, "mixture.weights", temperature).values())
    temperature = 1.0 if stage.temperature is None else stage.temperature
    return list(domain_shares(stage.weights, sizes, f"curriculum.{index}.weights", temperature).values())


def piece_steps(steps: int, batch_rows: int, rows_per_draw: int) -> list[int]:
    """Cut a stage whose weights move into pieces of constant weights.

    A piece that is whole periods long holds its weights exactly, so that rows up to any point of the stage stay within
    one of their weights, and none of its blocks is left half read. So pieces are groups of whole periods where at least
    ``MIN_PIECES`` of them fit, else whole periods of rows; in a stage too short for that they are what there is, a
    period or more where possible, and each may be off by one row.

    Args:
        steps: Steps of the stage.
        batch_rows: Rows of a step.
        rows_per_draw: Rows that one draw is cut into.

    Returns:
        Steps of each piece: at most ``MAX_PIECES``, summing to ``steps``; all but the last of a length within one
        quantum of each other.
    """
    quantum, most = 1, max(MIN_PIECES, steps * batch_rows // PERIOD)
    for rows in (PERIOD * rows_per_draw, PERIOD):
        whole = rows // math.gcd(rows, batch_rows)
        if steps >= MIN_PIECES * whole:
            quantum, most = whole, MAX_PIECES
            break
    quanta = steps // quantum
    count = min(MAX_PIECES, most, quanta)
    ends = [quanta * (piece + 1) // count * quantum for piece in range(count)]
    ends[-1] = steps
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _along(start: Shares, end: Shares, pieces: Sequence[int]) -> list[Shares]:
    """The shares in the middle of each piece, on the straight line from start to end."""
    if start == end:
        return [end for _ in pieces]
    found, done, total = [], 0, sum(pieces)
    for piece in pieces:
        at = (done + piece / 2) / total
        found.append([a + (b - a) * at for a, b in zip(start, end, strict=True)])
        done += piece
    return found


def _check_sizes(plan: Plan) -> None:
    for index, (name, tokens) in enumerate(plan.domain_tokens.items()):
        if any(stage.weights[index] and not plan.units(stage)[index] for stage in plan.stages):
            raise DataError(
                f"domain {name} is too small",
                why=f"it has {tokens:,} tokens; one block of the longest sequence needs {plan.block_tokens + 1:,}",
                fix=f"use a seq_len below {max(tokens, 2):,}, add documents, or set its weight to 0",
            )
