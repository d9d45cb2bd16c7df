"""The sizes of a model: a table of numbers that agree with each other.

In: the ``model:`` section of a run. Out: a ``ModelConfig``. Pure: neither torch nor ray is needed to read a config, to
count parameters (``model.flops``) or to plan a run.
"""

from pydantic import Field, model_validator

from rayllm.core.config import RUNTIME, ConfigModel, Count
from rayllm.core.errors import ConfigError

#: Label of a position whose loss never counts.
IGNORE_INDEX = -100


class ModelConfig(ConfigModel):
    """Sizes of a decoder-only transformer whose block is that of Hugging Face's ``Qwen3ForCausalLM``.

    Pre-RMSNorm, grouped-query attention with rotary positions and RMSNorm on each head's queries and keys, SwiGLU, no
    biases. The defaults are the tiny model of the quickstart.

    Source: Qwen Team 2025, Qwen3 Technical Report, arXiv:2505.09388, section 2.
    """

    vocab_size: Count | None = Field(
        default=None,
        ge=1,
        description="Rows of the embedding; by default the tokenizer's size, padded up to vocab_multiple.",
    )
    vocab_multiple: int = Field(
        default=64,
        ge=1,
        description="The default vocab_size is padded up to a multiple of this, for fast matrix products.",
    )
    real_vocab_size: Count | None = Field(
        default=None,
        ge=1,
        description="Ids that the tokenizer has; set from it. Rows above are padding and never sampled.",
    )
    dim: Count = Field(default=256, ge=1, description="Width of the residual stream.")
    num_layers: int = Field(default=4, ge=1, description="Transformer blocks.")
    num_heads: int = Field(default=4, ge=1, description="Query heads of each block.")
    num_kv_heads: int = Field(
        default=2, ge=1, description="Key and value heads; divides num_heads (equal: multi-head, 1: multi-query)."
    )
    head_dim: int | None = Field(default=None, ge=2, description="Channels of a head; by default dim / num_heads.")
    ffn_dim: Count = Field(default=640, ge=1, description="Hidden width of the feed-forward part.")
    max_seq_len: Count = Field(default=2048, ge=1, description="Longest sequence that the model takes, in tokens.")
    rope_theta: float = Field(
        default=10_000.0, gt=1, description="Base of the rotary wavelengths; larger for longer contexts."
    )
    norm_eps: float = Field(default=1e-6, gt=0, description="Added to the mean square under RMSNorm's root.")
    qk_norm: bool = Field(default=True, description="RMSNorm over the channels of each query and key head.")
    tie_embeddings: bool = Field(default=True, description="Use the embedding matrix as the output matrix.")
    init_std: float = Field(
        default=0.02,
        gt=0,
        description="Standard deviation of initial weights; projections back into the residual stream get it divided "
        "by sqrt(2 num_layers).",
    )
    loss_chunk_tokens: Count = Field(
        default=4096,
        ge=1,
        description="Tokens whose logits exist at the same time while the loss is computed.",
        json_schema_extra=RUNTIME,
    )

    @model_validator(mode="after")
    def _sizes_agree(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            divisors = [str(n) for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}; "
                f"set num_kv_heads to one of {', '.join(divisors)}"
            )
        if self.head_dim is None and self.dim % self.num_heads:
            raise ValueError(
                f"dim {self.dim} is not a multiple of num_heads {self.num_heads}; change one of them, or set head_dim"
            )
        if self.resolved_head_dim % 2:
            raise ValueError(
                f"head_dim is {self.resolved_head_dim}; rotary positions turn pairs of channels, so set an even "
                "head_dim (by default it is dim / num_heads)"
            )
        if self.vocab_size is not None and (self.real_vocab_size or 0) > self.vocab_size:
            raise ValueError(
                f"vocab_size {self.vocab_size} is smaller than real_vocab_size {self.real_vocab_size}; leave both out, "
                "and they come from the tokenizer"
            )
        return self

    @property
    def resolved_head_dim(self) -> int:
        """Channels of a head."""
        return self.head_dim or self.dim // self.num_heads

    @property
    def query_dim(self) -> int:
        """Channels of all query heads together."""
        return self.num_heads * self.resolved_head_dim

    @property
    def kv_dim(self) -> int:
        """Channels of all key heads together; values have as many."""
        return self.num_kv_heads * self.resolved_head_dim

    @property
    def resolved_vocab_size(self) -> int:
        """Rows of the embedding.

        Raises:
            ConfigError: If ``vocab_size`` was left to the tokenizer and no tokenizer has been seen.
        """
        if self.vocab_size is None:
            raise ConfigError(
                "the size of the model's vocabulary is not known yet",
                where="model.vocab_size",
                why="it is left out, which means the tokenizer's, and no tokenizer was given",
                fix="use config.with_vocab(codec.vocab_size), or set model.vocab_size",
            )
        return self.vocab_size

    def with_vocab(self, tokenizer_vocab_size: int) -> "ModelConfig":
        """The config for a tokenizer: ``vocab_size`` filled in, ``real_vocab_size`` remembered.

        Args:
            tokenizer_vocab_size: Ids that the tokenizer has, special tokens included.

        Raises:
            ConfigError: If a given ``vocab_size`` has too few rows for the tokenizer.
        """
        if self.vocab_size is not None and self.vocab_size < tokenizer_vocab_size:
            raise ConfigError(
                "the tokenizer has more ids than the model has embeddings",
                where="model.vocab_size",
                why=f"the tokenizer has {tokenizer_vocab_size:,} ids, vocab_size is {self.vocab_size:,}",
                fix="leave model.vocab_size out, or set it to the tokenizer's size or more",
            )
        padded = -(-tokenizer_vocab_size // self.vocab_multiple) * self.vocab_multiple
        filled = {"vocab_size": self.vocab_size or padded, "real_vocab_size": tokenizer_vocab_size}
        return ModelConfig.model_validate(self.model_dump() | filled)
