"""Parameters and FLOPs of a model, counted from its sizes alone."""

from dataclasses import dataclass

from rayllm.model.config import ModelConfig


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by their part in the work.

    Attributes:
        embedding: The embedding matrix, which is looked up; also the output matrix when the ends are tied.
        head: The output matrix where it is one of its own, else 0.
        blocks_matmul: Matrices of the blocks.
        norms: Scales of the norms.
    """

    embedding: int
    head: int
    blocks_matmul: int
    norms: int

    @property
    def total(self) -> int:
        """All parameters, a shared matrix once."""
        return self.embedding + self.head + self.blocks_matmul + self.norms

    @property
    def non_embedding(self) -> int:
        """Parameters of the blocks and the last norm: neither embedding nor head."""
        return self.blocks_matmul + self.norms

    @property
    def matmul(self) -> int:
        """Parameters that every token is multiplied with: the blocks' matrices and the output matrix, tied or not."""
        return self.blocks_matmul + (self.head or self.embedding)


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Count the parameters of ``Transformer(config)`` without making one.

    Raises:
        ConfigError: If the vocabulary is not known.
    """
    table = config.resolved_vocab_size * config.dim
    attention = config.dim * (2 * config.query_dim + 2 * config.kv_dim)
    block = attention + 3 * config.dim * config.ffn_dim
    block_norms = 2 * config.dim + (2 * config.resolved_head_dim if config.qk_norm else 0)
    return ParameterCounts(
        embedding=table,
        head=0 if config.tie_embeddings else table,
        blocks_matmul=config.num_layers * block,
        norms=config.num_layers * block_norms + config.dim,
    )


def training_flops_per_token(config: ModelConfig, seq_len: int) -> int:
    """Floating-point operations of forward and backward for one token: ``6 N + 12 L d T``.

    ``N`` are the parameters that take part in matrix products, ``L`` layers, ``d`` channels of all query heads, ``T``
    the sequence length. Attention counts in full, though half of it is masked, and recomputation does not count: the
    convention behind published MFU numbers.

    Args:
        config: Sizes, with the vocabulary known.
        seq_len: Tokens of a row.

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B.
    """
    return 6 * count_parameters(config).matmul + 12 * config.num_layers * config.query_dim * seq_len
