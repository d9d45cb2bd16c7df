"""A decoder-only transformer: token ids in, the loss of every token out.

``Transformer`` names its parameters as Hugging Face's ``Qwen3ForCausalLM`` does, except that queries, keys and values
are one matrix (``qkv_proj``) and gate and up are one (``gate_up_proj``), for speed; ``interchange`` splits them.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rayllm.model.compiler import compiled
from rayllm.model.config import ModelConfig
from rayllm.model.init import draw_weights
from rayllm.model.kv_cache import KVCache
from rayllm.model.layers.attention import Attention, LayerMemory
from rayllm.model.layers.embeddings import LMHead, TokenEmbedding
from rayllm.model.layers.feed_forward import make_feed_forward
from rayllm.model.layers.kernels import Kernel, dense
from rayllm.model.layers.norms import make_norm
from rayllm.model.layers.positions import RotaryTable, Rotation, alibi_slopes, places_in_documents
from rayllm.model.layers.token_losses import softmax_losses_
from rayllm.model.layers.visibility import Outlook, Visibility
from rayllm.model.recompute import RUNNERS, keep_all


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
        self.lm_head = LMHead(config)
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
            doc_ids: Document of each token: attention stays within it. Learned positions begin again at a document;
                others see only how far two tokens are apart.

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

    def init_weights(self, seed: int) -> None:
        """Draw initial weights; they depend on the seed and each parameter's name alone (``model.init``)."""
        draw_weights(self, self.config, seed)

    def tie_weights(self) -> None:
        """Make both ends share the embedding matrix, where the config says so; again after parameters were replaced."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def set_activation_checkpointing(self, kind: str) -> None:
        """Choose what blocks keep for backward and what they compute again, by a name of ``recompute.RUNNERS``."""
        self.model.run_block = RUNNERS[kind]

    def set_attention_kernel(self, kernel: Kernel) -> None:
        """Choose what computes attention over whole rows (``layers.kernels``); decoding with a cache stays SDPA's."""
        self.model.attention_kernel = kernel

    def compile_training(self) -> None:
        """Let torch compile what training steps run, each part when it first runs (``model.compiler``).

        That is the block, once for all layers, so that the time to compile does not grow with the depth, and the
        softmax of the head. Validation, sampling and decoding stay uncompiled: their many shapes would be compiled one
        by one.
        """
        self.model.call_block = compiled(keep_all)
        self.lm_head.softmax_losses = compiled(softmax_losses_)

    def set_z_loss(self, weight: float) -> None:
        """Add this times the squared log-partition to the losses of training; see ``token_losses``."""
        self.lm_head.z_loss = weight


class Decoder(nn.Module):
    """Embedding, blocks and the last norm: token ids to the vectors that the head reads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.run_block = self.call_block = keep_all
        self.attention_kernel: Kernel = dense
        rank, kind = config.embedding_rank, config.positions.kind
        self.embed_tokens = TokenEmbedding(config.resolved_vocab_size, rank or config.dim)
        self.embed_projection = None if rank is None else nn.Linear(rank, config.dim, bias=False)
        self.embed_positions = TokenEmbedding(config.max_seq_len, config.dim) if kind == "learned" else None
        self.embed_norm = make_norm(config) if config.embedding_norm else None
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = make_norm(config)
        self.rotary = (
            RotaryTable(config.resolved_head_dim, config.max_seq_len, config.positions)
            if config.positions.kind == "rope"
            else None
        )

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"],
        doc_ids: Int[Tensor, "batch seq"] | None = None,
        cache: KVCache | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """The normalised residual stream after the last block; see ``Transformer.logits``."""
        seq = input_ids.shape[1]
        if seq > self.config.max_seq_len:
            raise ValueError(f"rows of {seq} tokens exceed the model's max_seq_len {self.config.max_seq_len}")
        if cache is not None:
            if doc_ids is not None:
                raise ValueError("a cache holds one document a row: give either doc_ids or a cache")
            return self._forward_cached(input_ids, cache)
        rotation = None if self.rotary is None else self.rotary(seq, None, input_ids.device)
        places = None if doc_ids is None else places_in_documents(doc_ids)
        views = {
            window: self.attention_kernel(outlook, seq, doc_ids, input_ids)
            for window, outlook in self._outlooks(input_ids.device).items()
        }
        x = self._embed(input_ids, places)
        run, call = (self.run_block, self.call_block) if torch.is_grad_enabled() else (keep_all, keep_all)
        for index, layer in enumerate(self.layers):
            x = run(partial(call, layer), x, rotation, views[self.config.window_of(index)])
        return self.norm(x)

    def _forward_cached(self, input_ids: Int[Tensor, "batch seq"], cache: KVCache) -> Float[Tensor, "batch seq dim"]:
        seq, device = input_ids.shape[1], input_ids.device
        step = cache.step(seq)
        rotation = None if self.rotary is None else self.rotary(seq, step.positions, device)
        views = {window: step.visibility(outlook) for window, outlook in self._outlooks(device).items()}
        x = self._embed(input_ids, step.positions)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, views[self.config.window_of(index)], step.layer(index))
        cache.advance(seq)
        return self.norm(x)

    def _embed(
        self, input_ids: Int[Tensor, "batch seq"], places: Int[Tensor, "batch seq"] | None
    ) -> Float[Tensor, "batch seq dim"]:
        """Where the residual stream begins; places are those of the row's tokens by default."""
        x = self.embed_tokens(input_ids)
        if self.embed_projection is not None:
            x = self.embed_projection(x)
        if self.embed_positions is not None:
            rows = torch.arange(input_ids.shape[1], device=input_ids.device)[None] if places is None else places
            x = x + self.embed_positions(rows)
        return x if self.embed_norm is None else self.embed_norm(x)

    def _outlooks(self, device: torch.device) -> dict[int | None, Outlook]:
        """How far the layers see: one outlook for each window that some layer has."""
        alibi = self.config.positions.kind == "alibi"
        slopes = alibi_slopes(self.config.num_heads, device) if alibi else None
        windows = {self.config.window_of(index) for index in range(self.config.num_layers)}
        return {window: Outlook(window, slopes) for window in windows}


class Block(nn.Module):
    """One layer: attention, then feed-forward, each on a normalised copy and added to the residual stream.

    Source: Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, arXiv:2002.04745, section 3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = make_norm(config)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = make_norm(config)
        self.mlp = make_feed_forward(config)

    def forward(
        self,
        x: Float[Tensor, "batch seq dim"],
        rotation: Rotation | None,
        visibility: Visibility,
        memory: LayerMemory | None = None,
    ) -> Float[Tensor, "batch seq dim"]:
        """Add what attention and feed-forward find."""
        x = x + self.self_attn(self.input_layernorm(x), rotation, visibility, memory)
        return x + self.mlp(self.post_attention_layernorm(x))
