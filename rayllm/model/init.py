"""Initial weights: a scale for each parameter, and draws that depend on seed and name alone."""

import math

import torch
from torch import nn

from rayllm.core.rng import derive_seed
from rayllm.model.config import ModelConfig

#: Projections back into the residual stream: their initial scale shrinks with depth.
RESIDUAL_PROJECTIONS = ("o_proj.weight", "down_proj.weight")
EMBEDDINGS = ("embed_tokens.weight", "embed_positions.weight")


def initial_std(config: ModelConfig, name: str, fan_in: int) -> float:
    """Standard deviation of a new matrix.

    ``normal``: ``init_std`` for all. ``fan_in``: ``1 / sqrt(inputs)``, so that activations keep their scale at any
    width; embeddings 1 and the head ``1 / inputs``, or both ``1 / sqrt(inputs)`` where they are one matrix. In both,
    what writes into the residual stream is divided by ``sqrt(2 num_layers)``.

    Args:
        config: The model's choices.
        name: The parameter's name.
        fan_in: Its columns.

    Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3 (``normal`` and the
    division); Yang et al. 2022, Tensor Programs V, arXiv:2203.03466, table 8 (``fan_in``).
    """
    depth = math.sqrt(2 * config.num_layers) if name.endswith(RESIDUAL_PROJECTIONS) else 1.0
    if config.init_scale == "normal":
        return config.init_std / depth
    if name.endswith(EMBEDDINGS) and not config.tie_embeddings:
        return 1.0
    if name == "lm_head.weight" and not config.tie_embeddings:
        return 1.0 / fan_in
    return 1.0 / math.sqrt(fan_in) / depth


@torch.no_grad()
def draw_weights(module: nn.Module, config: ModelConfig, seed: int) -> None:
    """Draw initial weights: matrices are normal, scales of norms 1, biases 0.

    Each parameter has a stream of its own, derived from the seed and its name and drawn on the CPU in float32: the
    result depends neither on the order, nor on the device, nor on the number of workers.

    Args:
        module: The whole model.
        config: Its choices.
        seed: The run's seed.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        std = initial_std(config, name, parameter.shape[1])
        generator = torch.Generator().manual_seed(derive_seed(seed, "init", name))
        parameter.copy_(torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator))
