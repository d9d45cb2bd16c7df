"""The two ends of the model: tokens to vectors, and vectors to logits or to token losses."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rayllm.model.config import IGNORE_INDEX, ModelConfig


class TokenEmbedding(nn.Embedding):
    """A row of the matrix for each token id."""

    weight: nn.Parameter  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, input: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq width"]:
        """Look up ids."""
        return super().forward(input)


class LMHead(nn.Module):
    """The output matrix, and the cross-entropy over its logits.

    The loss is computed here, and not outside, for two reasons. The logits of a whole batch (tokens times vocabulary)
    would be by far the largest tensor of the training step: chunk after chunk they are made, used and dropped, and made
    again in backward. And ZeRO-3 holds a parameter whole only while the module that owns it runs.

    Args:
        config: Sizes, with the vocabulary known. With ``embedding_rank`` the residual stream is projected to that width
            first. Source: Lan et al. 2019, ALBERT, arXiv:1909.11942, section 3.1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.chunk_tokens, self.softcap = config.loss_chunk_tokens, config.logit_softcap
        #: Weight of the square of the log-partition in the loss, while training.
        self.z_loss = 0.0
        rank = config.embedding_rank
        self.projection = None if rank is None else nn.Linear(config.dim, rank, bias=False)
        self.weight = nn.Parameter(torch.zeros(config.resolved_vocab_size, rank or config.dim))

    def forward(
        self, hidden: Float[Tensor, "batch seq dim"], labels: Int[Tensor, "batch seq"] | None = None
    ) -> Float[Tensor, "batch seq"] | Float[Tensor, "batch seq vocab"]:
        """Losses where there are labels, logits where there are none.

        Args:
            hidden: The normalised residual stream.
            labels: The id that each position should give, or ``IGNORE_INDEX``.

        Returns:
            Cross-entropy of each token in nats, float32, 0 at ``IGNORE_INDEX``, while training with the z-loss; or the
            logits in float32.
        """
        if self.projection is not None:
            hidden = self.projection(hidden)
        if labels is None:
            return logits_of(hidden, self.weight, self.softcap)
        rows, targets = hidden.flatten(0, 1), labels.flatten()
        settings = (self.softcap, self.z_loss if self.training else 0.0)
        if rows.shape[0] <= self.chunk_tokens:
            return token_losses(rows, self.weight, targets, *settings).view(labels.shape)
        losses = [
            checkpoint(token_losses, part, self.weight, part_targets, *settings, use_reentrant=False)
            for part, part_targets in zip(rows.split(self.chunk_tokens), targets.split(self.chunk_tokens), strict=True)
        ]
        return torch.cat(losses).view(labels.shape)  # pyright: ignore[reportArgumentType]


def logits_of(
    rows: Float[Tensor, "*tokens width"], weight: Float[Tensor, "vocab width"], softcap: float | None
) -> Float[Tensor, "*tokens vocab"]:
    """Scores of every token in float32, bounded to plus or minus the cap.

    Source: Gemma Team 2024, Gemma 2, arXiv:2408.00118, section 2 (logit soft-capping).
    """
    logits = F.linear(rows, weight).float()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def token_losses(
    rows: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocab width"],
    targets: Int[Tensor, " tokens"],
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> Float[Tensor, " tokens"]:
    """Cross-entropy of each row's logits in nats; the softmax is in float32 also under autocast.

    Args:
        rows: What is multiplied with the output matrix.
        weight: The output matrix.
        targets: Ids, or ``IGNORE_INDEX``.
        softcap: See ``logits_of``.
        z_loss: Added for each token: this times the square of the logarithm of the softmax's denominator.

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, section 5 (z-loss).
    """
    logits = logits_of(rows, weight, softcap)
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="none")
    if z_loss:
        losses = losses + z_loss * logits.logsumexp(-1).square() * (targets != IGNORE_INDEX)
    return losses
