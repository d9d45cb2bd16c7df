"""The two ends of the model: tokens to vectors, and vectors to logits or to token losses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rayllm.model.config import ModelConfig
from rayllm.model.layers.token_losses import (
    LossSettings,
    Scratch,
    SoftmaxLosses,
    logits_of,
    softmax_losses_,
    token_losses,
)


class TokenEmbedding(nn.Embedding):
    """A row of the matrix for each token id."""

    weight: nn.Parameter  # pyright: ignore[reportIncompatibleVariableOverride]

    def forward(self, input: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq width"]:
        """Look up ids."""
        return super().forward(input)


class LMHead(nn.Module):
    """The output matrix, and the cross-entropy over its logits.

    The loss is computed here, and not outside, for two reasons. The logits of a whole batch would be by far the largest
    tensor of the training step, so they are made and used chunk after chunk (``layers.token_losses``). And ZeRO-3 holds
    a parameter whole only while the module that owns it runs.

    Args:
        config: Sizes, with the vocabulary known. With ``embedding_rank`` the residual stream is projected to that width
            first. Source: Lan et al. 2019, ALBERT, arXiv:1909.11942, section 3.1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.chunk_tokens, self.softcap = config.resolved_loss_chunk_tokens, config.logit_softcap
        #: Weight of the square of the log-partition in the loss, while training.
        self.z_loss = 0.0
        #: What makes losses and gradient of logits in training; ``Transformer.compile_training`` puts another here.
        self.softmax_losses: SoftmaxLosses = softmax_losses_
        #: Where logits lie, from step to step.
        self.scratch = Scratch()
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
        z_loss = self.z_loss if self.training else 0.0
        kernel = self.softmax_losses if torch.is_grad_enabled() else softmax_losses_
        settings = LossSettings(self.softcap, z_loss, self.chunk_tokens, kernel, self.scratch)
        return token_losses(hidden.flatten(0, 1), self.weight, labels.flatten(), settings).view(labels.shape)
