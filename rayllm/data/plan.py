"""The plan of a run: a table of stages, and a pure ``at(step)``.

It is the whole truth about which rows every step reads, and part of the checkpoint: the position in the data is one
integer, the optimizer step, together with this table. ``data.curriculum`` builds it from the run file.
"""

import dataclasses
import itertools
import json
from dataclasses import dataclass
from functools import cached_property

from rayllm.data.weights import PERIOD

#: Up to about four epochs, repeated text is worth almost as much as new text. Source: Muennighoff et al. 2023, Scaling
#: Data-Constrained Language Models, arXiv:2305.16264, section 6.
WORTHWHILE_EPOCHS = 4


@dataclass(frozen=True)
class StageRow:
    """One row of the stage table.

    Attributes:
        steps: Optimizer steps.
        seq_len: Tokens of a row.
        batch_rows: Rows of the global batch.
        weights: Draws of each domain in a period; sums to 1,024.
    """

    steps: int
    seq_len: int
    batch_rows: int
    weights: tuple[int, ...]

    @property
    def step_tokens(self) -> int:
        """Tokens of one step."""
        return self.batch_rows * self.seq_len

    @property
    def tokens(self) -> int:
        """Tokens of the stage."""
        return self.steps * self.step_tokens


@dataclass(frozen=True)
class Plan:
    """Which rows every step of a run reads, as a table.

    Attributes:
        seed: The run's seed.
        domain_tokens: Tokens of each domain, in the order of the weights.
        stages: The stage table.
    """

    seed: int
    domain_tokens: dict[str, int]
    stages: tuple[StageRow, ...]

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

    def epochs(self) -> dict[str, float]:
        """How often the run reads each domain."""
        stages = self.expected_tokens()
        return {
            name: sum(stage[name] for stage in stages) / max(blocks * self.block_tokens, 1)
            for name, blocks in zip(self.domains, self.domain_blocks, strict=True)
        }

    def warnings(self) -> list[str]:
        """What is allowed but seldom wanted: domains that are repeated too often."""
        return [
            f"domain {name} is read {epochs:.1f} times; past {WORTHWHILE_EPOCHS} epochs repeated text teaches ever "
            "less (arXiv:2305.16264): lower its weight, add data, or train on fewer tokens"
            for name, epochs in self.epochs().items()
            if epochs > WORTHWHILE_EPOCHS
        ]

    def to_json(self) -> str:
        """The plan as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what ``to_json`` wrote."""
        value = json.loads(text)
        stages = tuple(StageRow(**{**stage, "weights": tuple(stage["weights"])}) for stage in value["stages"])
        return cls(value["seed"], value["domain_tokens"], stages)
