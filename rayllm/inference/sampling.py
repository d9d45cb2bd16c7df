"""Logits to ids. Pure functions; all randomness is in the generator that the caller brings."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rayllm.inference.config import SamplingConfig


def sample(
    logits: Float[Tensor, "batch vocab"], config: SamplingConfig, generator: torch.Generator
) -> Int[Tensor, " batch"]:
    """Choose one token for each row.

    Args:
        logits: Scores; minus infinity where a token must not come.
        config: How to choose.
        generator: Source of randomness, on the device of ``logits``; advanced unless the choice is greedy.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    return torch.multinomial(distribution(logits, config), 1, generator=generator).squeeze(-1)


def distribution(logits: Float[Tensor, "batch vocab"], config: SamplingConfig) -> Float[Tensor, "batch vocab"]:
    """The probabilities that ``sample`` draws from, float32; ``config.temperature`` must not be 0."""
    scaled = logits.float() / config.temperature
    if 0 < config.top_k < scaled.shape[-1]:
        scaled = keep_top_k(scaled, config.top_k)
    if config.top_p < 1:
        scaled = keep_top_p(scaled, config.top_p)
    return scaled.softmax(-1)


def keep_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """Rule out all but the ``k`` likeliest tokens of each row.

    Source: Fan et al. 2018, Hierarchical Neural Story Generation, arXiv:1805.04833, section 5.4.
    """
    values, indices = logits.topk(k, dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, indices, values)


def keep_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """Rule out all but the nucleus of each row: the fewest likeliest tokens whose probabilities reach ``p``.

    Source: Holtzman et al. 2020, The Curious Case of Neural Text Degeneration, arXiv:1904.09751, section 3.1.
    """
    values, indices = logits.sort(dim=-1, descending=True)
    probabilities = values.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # of all likelier tokens; 0 for the first, which always stays
    return torch.empty_like(logits).scatter(-1, indices, values.masked_fill(before >= p, -torch.inf))


def rule_out_padding(logits: Float[Tensor, "batch vocab"], real_vocab_size: int | None) -> Float[Tensor, "batch vocab"]:
    """Give ids that the tokenizer does not have (padding rows of the embedding) the logit minus infinity."""
    if real_vocab_size is None or real_vocab_size >= logits.shape[-1]:
        return logits
    padding = torch.arange(logits.shape[-1], device=logits.device) >= real_vocab_size
    return logits.masked_fill(padding, -torch.inf)
