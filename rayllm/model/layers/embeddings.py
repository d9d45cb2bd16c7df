"""The two ends of the model: tokens to vectors, and vectors to logits or to token losses."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rayllm.model.config import IGNORE_INDEX


class TokenEmbedding(nn.Embedding):
    """A row of the matrix for each token id."""

    weight: nn.Parameter  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, input: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq dim"]:
        """Look up ids."""
        return super().forward(input)


class LMHead(nn.Module):
    """The output matrix, and the cross-entropy over its logits.

    The loss is computed here, and not outside, for two reasons. The logits of a whole batch (tokens times vocabulary)
    would be by far the largest tensor of the training step: chunk after chunk they are made, used and dropped, and made
    again in backward. And ZeRO-3 holds a parameter whole only while the module that owns it runs.

    Args:
        dim: Width of the residual stream.
        vocab_size: Rows of the matrix; its owner may put the embedding matrix in its place.
        chunk_tokens: Tokens whose logits exist at the same time.
    """

    def __init__(self, dim: int, vocab_size: int, chunk_tokens: int) -> None:
        super().__init__()
        self.chunk_tokens = chunk_tokens
        self.weight = nn.Parameter(torch.zeros(vocab_size, dim))

    def forward(
        self, hidden: Float[Tensor, "batch seq dim"], labels: Int[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch seq"] | Float[Tensor, "batch seq vocab"]:
        """Losses where there are labels, logits where there are none.

        Args:
            hidden: The normalised residual stream.
            labels: The id that each position should give, or ``IGNORE_INDEX``.

        Returns:
            Cross-entropy of each token in nats, float32, 0 at ``IGNORE_INDEX``; or the logits in float32.
        """
        if labels is None:
            return F.linear(hidden, self.weight).float()
        rows, targets = hidden.flatten(0, 1), labels.flatten()
        if rows.shape[0] <= self.chunk_tokens:
            return token_losses(rows, self.weight, targets).view(labels.shape)
        losses = [
            checkpoint(token_losses, part, self.weight, part_targets, use_reentrant=False)
            for part, part_targets in zip(rows.split(self.chunk_tokens), targets.split(self.chunk_tokens), strict=True)
        ]
        return torch.cat(losses).view(labels.shape)  # pyright: ignore[reportArgumentType]


def token_losses(
    rows: Float[Tensor, "tokens dim"], weight: Float[Tensor, "vocab dim"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Cross-entropy of each row's logits in nats; the softmax is in float32 also under autocast."""
    logits = F.linear(rows, weight).float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="none")
