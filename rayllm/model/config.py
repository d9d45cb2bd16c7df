"""The sizes of a model: a table of numbers that agree with each other.

In: the ``model:`` section of a run. Out: a ``ModelConfig``. Pure: neither torch nor ray is needed to read a config, to
count parameters (``model.flops``) or to plan a run.
"""

from typing import Literal

from pydantic import Field, model_validator

from rayllm.core.config import RUNTIME, ConfigModel, Count
from rayllm.core.errors import ConfigError
from rayllm.model.position_config import Positions, RopePositions

#: Label of a position whose loss never counts.
IGNORE_INDEX = -100
#: Logits that exist at a time by default, 256 MB in float32, and the fewest and most tokens that they may be of: less
#: makes matrix products slow, more saves nothing.
CHUNK_LOGITS, CHUNK_TOKENS = 2**26, (128, 4096)


class ModelConfig(ConfigModel):
    """Sizes and choices of a decoder-only transformer.

    By default its block is that of Hugging Face's ``Qwen3ForCausalLM``: pre-RMSNorm, grouped-query attention with
    rotary positions and RMSNorm on each head's queries and keys, SwiGLU, no biases. The default sizes are the tiny
    model of the quickstart. What no class of Hugging Face can hold needs ``exportable: false`` (``model.layout``).

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
    positions: Positions = Field(default=RopePositions(), description="How the model knows where a token stands.")
    window: Count | None = Field(
        default=None, ge=1, description="Tokens back that a layer with a sliding window sees, itself included."
    )
    global_every: int = Field(
        default=1, ge=1, description="With a window: every so many layers one sees all; 1: none of them has a window."
    )
    feed_forward: Literal["swiglu", "geglu", "reglu", "gelu", "relu2"] = Field(
        default="swiglu", description="Feed-forward part: gated (swiglu, geglu, reglu) or plain (gelu, relu2)."
    )
    norm: Literal["rmsnorm", "rmsnorm_unweighted", "layernorm"] = Field(
        default="rmsnorm", description="Norm before each part and before the head."
    )
    norm_eps: float = Field(default=1e-6, gt=0, description="Added to the mean square under the norm's root.")
    qk_norm: Literal["weighted", "unweighted", "none"] = Field(
        default="weighted", description="RMSNorm over the channels of each query and key head."
    )
    embedding_norm: bool = Field(default=False, description="Normalise the embeddings before the first block.")
    bias: bool = Field(default=False, description="Biases in all linear layers of the blocks, and in LayerNorm.")
    tie_embeddings: bool = Field(default=True, description="Use the embedding matrix as the output matrix.")
    embedding_rank: int | None = Field(
        default=None,
        ge=1,
        description="Width of the embedding and output matrices, each with a projection to `dim`; null: `dim` itself.",
    )
    logit_softcap: float | None = Field(
        default=None, gt=0, description="Bound the logits smoothly to plus or minus this: `c tanh(x / c)`; null: not."
    )
    init_scale: Literal["normal", "fan_in"] = Field(
        default="normal",
        description="Initial matrices: `normal` with init_std, or `fan_in` (1 / sqrt(inputs): holds at any width).",
    )
    init_std: float = Field(
        default=0.02,
        gt=0,
        description="Standard deviation of initial weights; projections back into the residual stream get theirs "
        "divided by sqrt(2 num_layers).",
    )
    exportable: bool = Field(
        default=True, description="Refuse choices that no class of Hugging Face's transformers can hold."
    )
    loss_chunk_tokens: Count | None = Field(
        default=None,
        ge=1,
        description="Tokens whose logits exist at the same time while the loss is computed; by default as many as have "
        "2^26 logits, from 128 to 4,096.",
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
        if self.positions.kind == "rope" and self.resolved_head_dim % 2:
            raise ValueError(
                f"head_dim is {self.resolved_head_dim}; rotary positions turn pairs of channels, so set an even "
                "head_dim (by default it is dim / num_heads)"
            )
        if self.global_every > 1 and self.window is None:
            raise ValueError("global_every says which layers have no window; set window, in tokens, too")
        if self.window is not None and self.global_every == 1:
            raise ValueError(
                "window is set, but with global_every 1 no layer uses it; set global_every to 2 or more "
                "(6: five layers with a window, then one without), or more than num_layers for a window in all"
            )
        if self.vocab_size is not None and (self.real_vocab_size or 0) > self.vocab_size:
            raise ValueError(
                f"vocab_size {self.vocab_size} is smaller than real_vocab_size {self.real_vocab_size}; leave both out, "
                "and they come from the tokenizer"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_idle(self) -> "ModelConfig":
        if self.init_scale == "fan_in" and self.init_std != type(self).model_fields["init_std"].default:
            raise ValueError(
                f"init_std {self.init_std:g} is not used with init_scale fan_in, which follows the inputs of each "
                "matrix; leave init_std out, or set init_scale to normal"
            )
        if self.embedding_rank is not None and self.embedding_rank >= self.dim:
            raise ValueError(
                f"embedding_rank {self.embedding_rank} makes the embeddings no narrower than dim {self.dim}; set it "
                "below dim, or to null"
            )
        return self

    @model_validator(mode="after")
    def _exportable_as_asked(self) -> "ModelConfig":
        if self.exportable and (obstacles := export_obstacles(self)):
            raise ValueError(
                f"no class of transformers can hold {'; '.join(obstacles)}: set exportable to false, or change that"
            )
        return self

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward part has a gate."""
        return self.feed_forward.endswith("glu")

    def window_of(self, layer: int) -> int | None:
        """How far back a layer sees, in tokens; None: all."""
        return None if (layer + 1) % self.global_every == 0 else self.window

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

    @property
    def resolved_loss_chunk_tokens(self) -> int:
        """Tokens whose logits exist at the same time.

        Raises:
            ConfigError: As ``resolved_vocab_size``, where it follows from that.
        """
        smallest, largest = CHUNK_TOKENS
        return self.loss_chunk_tokens or min(max(CHUNK_LOGITS // self.resolved_vocab_size, smallest), largest)

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


def export_obstacles(config: ModelConfig) -> list[str]:
    """What keeps a model from having one of the layouts of Hugging Face's transformers; empty if it has one.

    Layouts: ``Qwen3ForCausalLM``, ``LlamaForCausalLM`` (no QK norm) and ``GPT2LMHeadModel`` (learned positions).
    """
    gpt2 = config.positions.kind == "learned"
    unheld = {
        f"positions: {config.positions.kind}": config.positions.kind in ("alibi", "none"),
        f"norm: {config.norm}": config.norm != ("layernorm" if gpt2 else "rmsnorm"),
        f"feed_forward: {config.feed_forward}": config.feed_forward != ("gelu" if gpt2 else "swiglu"),
        f"qk_norm: {config.qk_norm}": config.qk_norm == "unweighted" or (gpt2 and config.qk_norm != "none"),
        f"embedding_rank: {config.embedding_rank}": config.embedding_rank is not None,
        f"logit_softcap: {config.logit_softcap}": config.logit_softcap is not None,
        "embedding_norm: true": config.embedding_norm,
        "learned positions without bias": gpt2 and not config.bias,
        "learned positions with a window": gpt2 and config.window is not None,
        "learned positions with grouped heads or a head_dim of its own": gpt2
        and (config.num_kv_heads != config.num_heads or config.query_dim != config.dim),
        "a window without QK norm": not gpt2 and config.window is not None and config.qk_norm == "none",
        "bias with QK norm": not gpt2 and config.bias and config.qk_norm != "none",
    }
    return [name for name, holds in unheld.items() if holds]
