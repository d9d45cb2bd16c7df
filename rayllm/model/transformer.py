"""A decoder-only transformer: token ids in, the loss of every token out.

``Transformer`` names its parameters as Hugging Face's ``Qwen3ForCausalLM`` does, except that queries, keys and values
are one matrix (``qkv_proj``) and gate and up are one (``gate_up_proj``), for speed; ``interchange`` splits them.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rayllm.core.rng import derive_seed
from rayllm.model.config import ModelConfig
from rayllm.model.kv_cache import KVCache
from rayllm.model.layers.attention import Attention, LayerMemory, Visibility, causal, causal_within_documents
from rayllm.model.layers.embeddings import LMHead, TokenEmbedding
from rayllm.model.layers.feed_forward import SwiGLU
from rayllm.model.layers.norms import RMSNorm
from rayllm.model.layers.positions import RotaryTable, Rotation

#: Projections back into the residual stream: their initial scale shrinks with depth.
RESIDUAL_PROJECTIONS = ("o_proj.weight", "down_proj.weight")


class Transformer(nn.Module):
    """The whole model: embedding, blocks, norm, head.

    A new one holds torch's default weights: call ``init_weights`` or load a checkpoint.

    Args:
        config: Sizes, with the vocabulary known (``ModelConfig.with_vocab``).

    Raises:
        ConfigError: If the vocabulary is not known.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = LMHead(config.dim, config.resolved_vocab_size, config.loss_chunk_tokens)
        self.tie_weights()

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        labels: Int[Tensor, "batch seq"],
        doc_ids: Int[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq"]:
        """The loss of every token; an objective is a sum over them.

        Args:
            input_ids: Token ids.
            labels: The id that each position should predict, already shifted, or ``IGNORE_INDEX``.
            doc_ids: Document of each token: attention stays within it. Positions do not begin again at a document,
                which changes nothing: rotary attention sees only how far two tokens are apart.

        Returns:
            Cross-entropy in nats, float32, 0 at ``IGNORE_INDEX``.

        Raises:
            ValueError: If the rows are longer than the model's context.
        """
        return self.lm_head(self.model(input_ids, doc_ids), labels)

    def logits(
        self,
        input_ids: Int[Tensor, "batch seq"],
        doc_ids: Int[Tensor, "batch seq"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Scores of every possible next token at every position, float32.

        Args:
            input_ids: Token ids; with a cache, only those that it does not hold yet.
            doc_ids: See ``forward``; not together with a cache.
            cache: Past keys and values; the new ones are added to it.

        Raises:
            ValueError: If the rows are longer than the model's context or the cache, or both options are given.
        """
        return self.lm_head(self.model(input_ids, doc_ids, cache))

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Draw initial weights.

        Matrices are normal with standard deviation ``init_std``, divided by ``sqrt(2 num_layers)`` where they write
        into the residual stream; norms are 1. Each parameter has a stream of its own, derived from the seed and its
        name and drawn on the CPU in float32: the result depends neither on the order, nor on the device, nor on the
        number of workers.

        Args:
            seed: The run's seed.

        Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3.
        """
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
                continue
            std = self.config.init_std
            if name.endswith(RESIDUAL_PROJECTIONS):
                std /= math.sqrt(2 * self.config.num_layers)
            generator = torch.Generator().manual_seed(derive_seed(seed, "init", name))
            parameter.copy_(torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator))

    def tie_weights(self) -> None:
        """Make both ends share the embedding matrix, where the config says so; again after parameters were replaced."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Choose whether blocks keep their activations for backward or compute them again."""
        self.model.activation_checkpointing = enabled


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: token ids to the vectors that the head reads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.max_seq_len = config.max_seq_len
        self.activation_checkpointing = False
        self.embed_tokens = TokenEmbedding(config.resolved_vocab_size, config.dim)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.rotary = RotaryTable(config.resolved_head_dim, config.max_seq_len, config.rope_theta)

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        doc_ids: Int[Tensor, "batch seq"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The normalised residual stream after the last block; see ``Transformer.logits``."""
        seq = input_ids.shape[1]
        if seq > self.max_seq_len:
            raise ValueError(f"rows of {seq} tokens exceed the model's max_seq_len {self.max_seq_len}")
        if cache is not None:
            if doc_ids is not None:
                raise ValueError("a cache holds one document a row: give either doc_ids or a cache")
            return self._forward_cached(input_ids, cache)
        visibility = causal() if doc_ids is None else causal_within_documents(doc_ids)
        rotation = self.rotary(seq, None, input_ids.device)
        x = self.embed_tokens(input_ids)
        for layer in self.layers:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotation, visibility, use_reentrant=False)
            else:
                x = layer(x, rotation, visibility)
        return self.norm(x)

    def _forward_cached(self, input_ids: Int[Tensor, "batch seq"], cache: KVCache) -> Float[Tensor, "batch seq dim"]:
        step = cache.step(input_ids.shape[1])
        rotation, visibility = self.rotary(input_ids.shape[1], step.positions, input_ids.device), step.visibility()
        x = self.embed_tokens(input_ids)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, visibility, step.layer(index))
        cache.advance(input_ids.shape[1])
        return self.norm(x)


class Block(nn.Module):
    """One layer: attention, then feed-forward, each on a normalised copy and added to the residual stream.

    Source: Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv:2002.04745, section 3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.dim, config.norm_eps)
        self.mlp = SwiGLU(config.dim, config.ffn_dim)

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        rotation: Rotation,
        visibility: Visibility,
        memory: LayerMemory | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Add what attention and feed-forward find."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, visibility, memory)
        return x + self.mlp(self.post_attention_layernorm(x))
