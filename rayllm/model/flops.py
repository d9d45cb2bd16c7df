"""Parameters and FLOPs of a model, counted from its sizes alone."""

from dataclasses import dataclass

from rayllm.model.config import ModelConfig
from rayllm.model.lora.config import LoraConfig, count_adapters


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters by their part in the work.

    Attributes:
        embedding: The embedding matrix, which is looked up; also the output matrix when the ends are tied.
        positions: Learned positions, looked up.
        head: The output matrix where it is one of its own, else 0.
        projections: The two matrices between `embedding_rank` and `dim`.
        blocks_matmul: Matrices of the blocks.
        norms: Scales of the norms, and biases.
    """

    embedding: int
    positions: int
    head: int
    projections: int
    blocks_matmul: int
    norms: int

    @property
    def total(self) -> int:
        """All parameters, a shared matrix once."""
        return self.embedding + self.positions + self.head + self.projections + self.blocks_matmul + self.norms

    @property
    def non_embedding(self) -> int:
        """Parameters of the blocks and the last norm: neither embedding nor head."""
        return self.blocks_matmul + self.norms

    @property
    def matmul(self) -> int:
        """Parameters that every token is multiplied with: the blocks' matrices and the output matrix, tied or not."""
        return self.blocks_matmul + self.projections + (self.head or self.embedding)


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Count the parameters of ``Transformer(config)`` without making one.

    Raises:
        ConfigError: If the vocabulary is not known.
    """
    table = config.resolved_vocab_size * (config.embedding_rank or config.dim)
    feed_forward_up = (2 if config.is_gated else 1) * config.ffn_dim
    outputs = (config.query_dim + 2 * config.kv_dim) + config.dim + feed_forward_up + config.dim  # of a block's layers
    block = config.dim * (2 * config.query_dim + 2 * config.kv_dim + feed_forward_up + config.ffn_dim)
    scales = {"rmsnorm": 1, "rmsnorm_unweighted": 0, "layernorm": 1 + config.bias}[config.norm] * config.dim
    head_scales = 2 * config.resolved_head_dim if config.qk_norm == "weighted" else 0
    block_vectors = 2 * scales + head_scales + config.bias * outputs
    return ParameterCounts(
        embedding=table,
        positions=config.max_seq_len * config.dim if config.positions.kind == "learned" else 0,
        head=0 if config.tie_embeddings else table,
        projections=2 * config.dim * config.embedding_rank if config.embedding_rank else 0,
        blocks_matmul=config.num_layers * block,
        norms=config.num_layers * block_vectors + scales * (1 + config.embedding_norm),
    )


def training_flops_per_token(config: ModelConfig, seq_len: int, lora: LoraConfig | None = None) -> int:
    """Floating-point operations of forward and backward for one token: ``6 N + 12 L d T``.

    ``N`` are the parameters that take part in matrix products, ``L`` layers, ``d`` channels of all query heads, ``T``
    the sequence length, or the window of a layer that has one. Attention counts in full, though half of it is masked,
    and recomputation does not count: the convention behind published MFU numbers. Matrices that stay as they are beside
    adapters have no gradient of their own: ``4 N``, and ``6`` for each number of the adapters.

    Args:
        config: Sizes, with the vocabulary known.
        seq_len: Tokens of a row.
        lora: The adapters that are trained alone.

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B.
    """
    seen = sum(min(seq_len, config.window_of(layer) or seq_len) for layer in range(config.num_layers))
    matmul = count_parameters(config).matmul
    products = 6 * matmul if lora is None else 4 * matmul + 6 * count_adapters(lora, config)
    return products + 12 * config.query_dim * seen
