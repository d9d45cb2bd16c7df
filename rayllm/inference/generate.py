"""Prompts to continuations: one pass over the prompts, then a token at a time with a key-value cache.

Prompts of different lengths run as one batch, padded on the right (see ``model.kv_cache``): what a row gets does not
depend on the padding. The model may be in training; nothing of it changes.
"""

from collections.abc import Collection, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayllm.core.errors import ConfigError
from rayllm.inference.config import SamplingConfig
from rayllm.inference.sampling import rule_out_padding, sample
from rayllm.model.kv_cache import KVCache
from rayllm.model.transformer import Transformer


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig | None = None,
    stop_ids: Collection[int] = (),
    seed: int = 0,
) -> list[list[int]]:
    """Continue prompts; see ``stream``.

    Returns:
        The new ids of each prompt, without prompt and stop id.
    """
    written: list[list[int]] = [[] for _ in prompts]
    steps = stream(model, prompts, max_new_tokens=max_new_tokens, sampling=sampling, stop_ids=stop_ids, seed=seed)
    for step in steps:
        for row, token in zip(written, step, strict=True):
            if token is not None:
                row.append(token)
    return written


def stream(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig | None = None,
    stop_ids: Collection[int] = (),
    seed: int = 0,
) -> Iterator[list[int | None]]:
    """Continue prompts, a token at a time.

    Args:
        model: Anywhere; under autocast the cache has autocast's dtype.
        prompts: Ids of each prompt. Ours begin with the separator, as documents do.
        max_new_tokens: How many tokens a row gets at most.
        sampling: How tokens are chosen; by default ``SamplingConfig()``.
        stop_ids: A row ends where one of these is chosen.
        seed: Of the choices, for the batch as a whole.

    Yields:
        The next token of each row; None for a row that has ended. Ends when all rows have.

    Raises:
        ConfigError: If a prompt is empty or does not fit into the model's context with its continuation.
    """
    if not prompts:
        return
    sampling = sampling or SamplingConfig()
    lengths = [len(prompt) for prompt in prompts]
    device = model.model.embed_tokens.weight.device
    cache = _new_cache(model, lengths, max_new_tokens, device)
    generator = torch.Generator(device).manual_seed(seed)
    ended = [False] * len(prompts)
    logits = _read_prompts(model, prompts, lengths, cache, device)
    for count in range(1, max_new_tokens + 1):
        tokens = sample(rule_out_padding(logits, model.config.real_vocab_size), sampling, generator)
        step = tokens.tolist()
        ended = [done or token in stop_ids for done, token in zip(ended, step, strict=True)]
        yield [None if done else token for done, token in zip(ended, step, strict=True)]
        if all(ended) or count == max_new_tokens:
            return
        logits = _read_next(model, tokens, cache)


def _new_cache(model: Transformer, lengths: list[int], max_new_tokens: int, device: torch.device) -> KVCache:
    longest, context = max(lengths), model.config.max_seq_len
    if min(lengths) == 0:
        raise ConfigError("a prompt is empty", fix="begin it with the separator: a model continues at least one token")
    if longest + max_new_tokens > context:
        raise ConfigError(
            "prompt and continuation do not fit into the model's context",
            why=f"{longest} + {max_new_tokens} tokens; the model takes {context}",
            fix=f"ask for at most {context - longest} new tokens" if longest < context else "shorten the prompt",
        )
    dtype = model.model.embed_tokens.weight.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    return KVCache(model.config, len(lengths), longest + max_new_tokens, device=device, dtype=dtype)


# no_grad stands on the passes and not around the loop, so that it never holds for who takes the tokens.
@torch.no_grad()
def _read_prompts(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    lengths: list[int],
    cache: KVCache,
    device: torch.device,
) -> Float[Tensor, "batch vocab"]:
    """Fill the cache with the prompts; the logits behind the last token of each, and of no other."""
    padded: Int[Tensor, "batch seq"] = torch.zeros(len(prompts), max(lengths), dtype=torch.long)
    for row, prompt in zip(padded, prompts, strict=True):
        row[: len(prompt)] = torch.as_tensor(prompt)
    hidden = model.model(padded.to(device), None, cache)
    cache.truncate(lengths)
    last = hidden[torch.arange(len(prompts)), torch.tensor(lengths) - 1]
    return model.lm_head(last[:, None])[:, 0]


@torch.no_grad()
def _read_next(model: Transformer, tokens: Int[Tensor, " batch"], cache: KVCache) -> Float[Tensor, "batch vocab"]:
    return model.logits(tokens[:, None], cache=cache)[:, 0]
