"""Objectives: token losses to what the step minimises and what is counted."""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from rayllm.data.batches import Batch
from rayllm.model.config import IGNORE_INDEX


class Objective(Protocol):
    """A loss as a sum over a batch, and the number of things it sums over."""

    def loss_sum(self, token_losses: Float[Tensor, "rows seq"], batch: Batch) -> Float[Tensor, ""]:
        """Sum of the loss over the batch, in nats; divided by the global count it is the loss of the step."""
        ...

    def count(self, batch: Batch) -> Float[Tensor, " rows"]:
        """What each row adds to the global count."""
        ...


class LanguageModeling:
    """Next-token cross-entropy, summed; counted in supervised tokens."""

    def loss_sum(self, token_losses: Float[Tensor, "rows seq"], batch: Batch) -> Float[Tensor, ""]:
        """Sum over the supervised tokens."""
        return token_losses.sum()

    def count(self, batch: Batch) -> Float[Tensor, " rows"]:
        """Supervised tokens of each row."""
        return (batch.labels != IGNORE_INDEX).sum(dim=1).double()
