"""Memory of past keys and values, so that decoding a token costs one token.

Each row of the batch has its own length, so prompts of different lengths run together: they are padded on the right,
the causal mask keeps real tokens from seeing the padding, and ``truncate`` forgets it before the next token is written
in its place. Positions are those of the row itself, as without a cache.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayllm.model.config import ModelConfig
from rayllm.model.layers.visibility import DenseVisibility, Outlook

NewTokens = Float[Tensor, "batch num_kv_heads new head_dim"]
AllTokens = Float[Tensor, "batch num_kv_heads tokens head_dim"]
Memory = Float[Tensor, "batch num_kv_heads capacity head_dim"]


class KVCache:
    """Keys and values of all blocks, allocated once.

    Args:
        config: Sizes of the model.
        batch: Rows.
        capacity: Tokens that a row can hold, at most ``config.max_seq_len``.
        device: Where the model is.
        dtype: Dtype of keys and values: that of the model's matrix products.

    Raises:
        ValueError: If ``capacity`` exceeds the model's context.
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, *, device: torch.device, dtype: torch.dtype
    ) -> None:
        if capacity > config.max_seq_len:
            raise ValueError(f"a cache of {capacity} tokens exceeds the model's max_seq_len {config.max_seq_len}")
        shape = (config.num_layers, batch, config.num_kv_heads, capacity, config.resolved_head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.capacity = capacity
        self._lengths = [0] * batch

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens that each row holds."""
        return tuple(self._lengths)

    def step(self, seq: int) -> "CacheStep":
        """Prepare to take ``seq`` new tokens in each row.

        Raises:
            ValueError: If a row has no room for them.
        """
        longest = max(self._lengths) + seq
        if longest > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} tokens a row; {longest} do not fit")
        return CacheStep(self, seq)

    def advance(self, seq: int) -> None:
        """Count ``seq`` tokens that every block has appended."""
        self._lengths = [length + seq for length in self._lengths]

    def truncate(self, lengths: list[int]) -> None:
        """Keep only the first ``lengths[row]`` tokens of each row.

        Raises:
            ValueError: If a row holds fewer.
        """
        if len(lengths) != len(self._lengths) or any(
            not 0 <= new <= old for new, old in zip(lengths, self._lengths, strict=True)
        ):
            raise ValueError(f"rows hold {self._lengths} tokens and cannot be cut to {lengths}")
        self._lengths = list(lengths)


class CacheStep:
    """One forward pass over new tokens: where they stand, what they see, and where their keys go."""

    def __init__(self, cache: KVCache, seq: int) -> None:
        lengths, device = cache.lengths, cache.keys.device
        self._cache, self._seq = cache, seq
        self._end = max(lengths) + seq
        self._start = lengths[0] if len(set(lengths)) == 1 else None  # None: rows stand at different positions
        starts = torch.tensor(lengths, device=device)
        self.positions: Int[Tensor, "batch seq"] = starts[:, None] + torch.arange(seq, device=device)

    def visibility(self, outlook: Outlook) -> DenseVisibility:
        """Each new token sees its row's tokens up to itself, as far as a layer sees."""
        unbounded = outlook.slopes is None and (outlook.window is None or self._end <= outlook.window)
        if unbounded and self._start == 0:
            return DenseVisibility(is_causal=True)
        if unbounded and self._start is not None and self._seq == 1:
            return DenseVisibility(is_causal=False)
        return outlook.over_cache(self.positions, self._end)

    def layer(self, index: int) -> "LayerCache":
        """The part of one block."""
        return LayerCache(self, self._cache.keys[index], self._cache.values[index])

    def write(self, memory: Memory, new: NewTokens) -> AllTokens:
        """Put new tokens behind each row's old ones in ``memory``, and view all of them."""
        if self._start is not None:
            memory[:, :, self._start : self._end] = new
        else:
            rows = torch.arange(new.shape[0], device=new.device)[:, None]
            # two index tensors around a slice: torch puts the indexed axes first
            memory[rows, :, self.positions] = new.transpose(1, 2).to(memory.dtype)
        return memory[:, :, : self._end]


class LayerCache:
    """Keys and values of one block during one pass."""

    def __init__(self, step: CacheStep, keys: Memory, values: Memory) -> None:
        self._step, self._keys, self._values = step, keys, values

    def append(self, keys: NewTokens, values: NewTokens) -> tuple[AllTokens, AllTokens]:
        """Remember the keys and values of new tokens, and give those of all tokens."""
        return self._step.write(self._keys, keys), self._step.write(self._values, values)
