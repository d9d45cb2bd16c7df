"""The plan of a run: a table of stages, and a pure ``at(step)``.

It is the whole truth about which rows every step reads, and part of the checkpoint: the position in the data is one
integer, the optimizer step, together with this table. ``data.mixing.curriculum`` builds it from the run file.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rayllm.core.errors import ArtifactDamaged
from rayllm.data.mixing.weights import PERIOD, WORTHWHILE_EPOCHS

Packing = Literal["concat", "best_fit"]


@dataclass(frozen=True)
class StageRow:
    """One row of the stage table.

    Attributes:
        steps: Optimizer steps.
        seq_len: Tokens of a row.
        batch_rows: Rows of the global batch.
        weights: Draws of each domain in a period; sums to 1,024.
        stage: Index of the curriculum's stage that the row is a part of; a stage whose weights move has several.
        shuffle: Another seed from this row on, for a fork: what each domain has left of its epoch, and the epochs that
            follow, come in another order. None, and the value of the row before: the order goes on.
    """

    steps: int
    seq_len: int
    batch_rows: int
    weights: tuple[int, ...]
    stage: int = 0
    shuffle: int | None = None

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return self.batch_rows * self.seq_len

    @property
    def tokens(self) -> int:
        """Tokens of the stage."""
        return self.steps * self.step_tokens


@dataclass(frozen=True)
class RowIndex:
    """What a plan knows of the rows of one length that are no plain slices; see ``data.packing.row_index``.

    Attributes:
        seq_len: Tokens of a row.
        rows: Rows of each domain, in the order of the weights.
        sha256: Hash of each domain's index: another hash means other rows under the same numbers.
    """

    seq_len: int
    rows: tuple[int, ...]
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Which rows every step of a run reads, as a table.

    Attributes:
        seed: The seed that the run began with.
        domain_tokens: Tokens of each domain, in the order of the weights.
        stages: The stage table.
        packing: What a row is: ``concat``, a slice of the stream, or ``best_fit``, a row of an index.
        indexes: With ``best_fit``, the index of every length in the table.
    """

    seed: int
    domain_tokens: dict[str, int]
    stages: tuple[StageRow, ...]
    packing: Packing = "concat"
    indexes: tuple[RowIndex, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, in the order of the weights."""
        return tuple(self.domain_tokens)

    @cached_property
    def block_tokens(self) -> int:
        """Tokens of the blocks that are shuffled: the longest row of all stages."""
        return max(stage.seq_len for stage in self.stages)

    @cached_property
    def domain_blocks(self) -> tuple[int, ...]:
        """Whole blocks of each domain; the last label of a block is the token after it."""
        return tuple(max(tokens - 1, 0) // self.block_tokens for tokens in self.domain_tokens.values())

    def index(self, seq_len: int) -> RowIndex | None:
        """The index that holds the rows of a length; None where rows are slices."""
        return next((index for index in self.indexes if index.seq_len == seq_len), None)

    def unit_tokens(self, stage: StageRow) -> int:
        """Tokens of what a stage draws: of a block, which it may cut into rows, or of a row of an index."""
        return self.block_tokens if self.packing == "concat" else stage.seq_len

    def units(self, stage: StageRow) -> tuple[int, ...]:
        """How many of what a stage draws each domain has: whole blocks, or rows of the index of the stage's length."""
        index = self.index(stage.seq_len)
        return self.domain_blocks if index is None else index.rows

    @cached_property
    def _first_steps(self) -> tuple[int, ...]:
        return tuple(itertools.accumulate((stage.steps for stage in self.stages), initial=0))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self._first_steps[-1]

    @property
    def total_tokens(self) -> int:
        """Tokens of the run."""
        return sum(stage.tokens for stage in self.stages)

    def at(self, step: int) -> tuple[int, StageRow, int]:
        """The stage of a step.

        Args:
            step: Optimizer step, counted from 0.

        Returns:
            Index of the stage, the stage, and the step counted from its beginning.

        Raises:
            ValueError: If the run has no such step.
        """
        for index, (stage, first) in enumerate(zip(self.stages, self._first_steps, strict=False)):
            if first <= step < first + stage.steps:
                return index, stage, step - first
        raise ValueError(f"step {step} is not in [0, {self.total_steps})")

    def tokens_before(self, step: int) -> int:
        """Tokens read by the steps before this one; ``step`` may be ``total_steps``."""
        firsts = zip(self.stages, self._first_steps, strict=False)
        return sum(min(max(step - first, 0), stage.steps) * stage.step_tokens for stage, first in firsts)

    def expected_tokens(self) -> list[dict[str, float]]:
        """Tokens of each domain, for every stage: the weight times the stage's tokens."""
        return [
            {name: stage.tokens * weight / PERIOD for name, weight in zip(self.domains, stage.weights, strict=True)}
            for stage in self.stages
        ]

    def full_epochs(self) -> list[list[float]]:
        """For every row of the table, how often it would read each domain if it read nothing else."""
        return [
            [stage.tokens / max(units * self.unit_tokens(stage), 1) for units in self.units(stage)]
            for stage in self.stages
        ]

    def epochs_by_row(self) -> list[dict[str, float]]:
        """How often every row of the table reads each domain."""
        return [
            {name: full * weight / PERIOD for name, full, weight in zip(self.domains, row, stage.weights, strict=True)}
            for stage, row in zip(self.stages, self.full_epochs(), strict=True)
        ]

    def epochs(self) -> dict[str, float]:
        """How often the run reads each domain."""
        rows = self.epochs_by_row()
        return {name: sum(row[name] for row in rows) for name in self.domains}

    def warnings(self, caps: Mapping[str, float]) -> list[str]:
        """What is allowed but seldom wanted: domains that are read more often than their caps, epochs that overlap.

        Args:
            caps: Most epochs of each domain; see ``MixtureConfig.caps``.
        """
        found = [
            f"domain {name} is read {epochs:.1f} times, more than mixture.max_epochs, {caps[name]:g}; past "
            f"{WORTHWHILE_EPOCHS:g} epochs repeated text teaches ever less (arXiv:2305.16264): lower its weight, add "
            f"data, train on fewer tokens, or set mixture.cap: redistribute"
            for name, epochs in self.epochs().items()
            if epochs > caps[name]
        ]
        if len(self.indexes) > 1:
            lengths = ", ".join(f"{index.seq_len:,}" for index in self.indexes)
            found.append(
                f"best-fit rows of {lengths} tokens have epochs of their own: a token read at one length may come "
                "again at another before all others were read (docs/packing.md); not so with `train.packing: concat`"
            )
        return found

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what ``to_json`` wrote.

        Raises:
            ArtifactDamaged: If another version wrote it, naming the field that lacks or is not known.
        """
        try:
            value = json.loads(text)
            stages = tuple(StageRow(**{**stage, "weights": tuple(stage["weights"])}) for stage in value["stages"])
            indexes = tuple(
                RowIndex(index["seq_len"], tuple(index["rows"]), tuple(index["sha256"]))
                for index in value.get("indexes", ())
            )
            return cls(value["seed"], value["domain_tokens"], stages, value.get("packing", "concat"), indexes)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactDamaged(
                "the stage table of a run cannot be read",
                where="plan.json",
                why=f"it lacks {error}" if isinstance(error, KeyError) else str(error),
                fix="it may be from another version of rayllm; use the one that the run's manifest names",
            ) from error
