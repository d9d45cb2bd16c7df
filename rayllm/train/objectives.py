"""Objectives: token losses to what the step minimises and what is counted."""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from rayllm.data.batches import Batch
from rayllm.model.config import IGNORE_INDEX
from rayllm.train.objective_config import DpoConfig, ObjectiveConfig
from rayllm.train.preferences import DirectPreference


class Objective(Protocol):
    """A loss as a sum over a batch, and the number of things it sums over."""

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what is measured beside the loss."""
        ...

    def sums(self, token_losses: Float[Tensor, "rows seq"], batch: Batch) -> Float[Tensor, " 1+measures"]:
        """Sums over the batch: the loss in nats, which carries the gradient, then the measures.

        Divided by the global count they are the loss and the measures of the step.
        """
        ...

    def count(self, batch: Batch) -> Float[Tensor, " rows"]:
        """What each row adds to the global count."""
        ...


class LanguageModeling:
    """Next-token cross-entropy, summed; counted in supervised tokens."""

    measures: tuple[str, ...] = ()

    def sums(self, token_losses: Float[Tensor, "rows seq"], batch: Batch) -> Float[Tensor, "1"]:
        """Sum over the supervised tokens."""
        return token_losses.sum().reshape(1)

    def count(self, batch: Batch) -> Float[Tensor, " rows"]:
        """Supervised tokens of each row."""
        return supervised_tokens(batch)


def supervised_tokens(batch: Batch) -> Float[Tensor, " rows"]:
    """Labels of each row that count."""
    return (batch.labels != IGNORE_INDEX).sum(dim=1).double()


def build_objective(config: ObjectiveConfig) -> Objective:
    """The objective of a run."""
    return DirectPreference(config) if isinstance(config, DpoConfig) else LanguageModeling()
