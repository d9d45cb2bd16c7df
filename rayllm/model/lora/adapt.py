"""Adapters into a model, and out of the way: the base frozen, small matrices beside the chosen ones.

In: a ``Transformer`` with the weights of the base. Out: the same module, whose forward pass is the same until the
adapters are trained.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rayllm.core.rng import derive_seed
from rayllm.model.lora.config import LoraConfig, adapted_matrices
from rayllm.model.lora.layers import AdaptedLinear, FrozenLinear
from rayllm.model.matrices import block_matrices
from rayllm.model.transformer import Transformer


def adapt(module: Transformer, lora: LoraConfig, dtype: torch.dtype | None = None) -> None:
    """Freeze a model and put adapters beside the matrices that the targets match, in place.

    Embeddings, head and norms keep float32: only matrix products take place in another precision.

    Args:
        module: With its weights; not yet partitioned. On the ``meta`` device it gets the shapes alone.
        lora: Its targets match matrices of the model.
        dtype: What the frozen matrices of the blocks are kept in; by default as they are.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    chosen = adapted_matrices(lora, module.config)
    matrices = block_matrices(module.config)
    for layer in range(module.config.num_layers):
        for local, rows in matrices.items():
            name = f"model.layers.{layer}.{local}"
            linear = module.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            if dtype is not None:
                linear.weight = nn.Parameter(linear.weight.detach().to(dtype), requires_grad=False)
            adapted = AdaptedLinear(linear, rows, chosen[name], lora) if name in chosen else FrozenLinear(linear)
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, adapted)


@torch.no_grad()
def draw_adapters(module: Transformer, seed: int) -> None:
    """Set new adapters: A uniform within ``1 / sqrt(inputs)`` (Kaiming's, as in ``peft``), B zero, lengths the base's.

    Each A depends on the seed and the name of its matrix alone, not on which others have adapters.

    Args:
        module: An adapted model with the weights of the base.
        seed: The run's seed.
    """
    for name, layer in adapted_layers(module):
        for matrix, (a, b, _) in layer.adapters().items():
            generator = torch.Generator().manual_seed(derive_seed(seed, "lora", name, matrix))
            bound = 1 / math.sqrt(a.shape[1])
            a.copy_(torch.empty(a.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator))
            b.zero_()
        layer.take_lengths()


def adapted_layers(module: nn.Module) -> Iterator[tuple[str, AdaptedLinear]]:
    """The layers with adapters, by name."""
    for name, part in module.named_modules():
        if isinstance(part, AdaptedLinear):
            yield name, part


def adapter_splits(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Rows of each matrix inside the adapters' parameters, by full name; see ``model.matrices.matrix_splits``."""
    return {f"{name}.{part}": rows for name, layer in adapted_layers(module) for part, rows in layer.splits().items()}


@contextmanager
def adapters_off(module: nn.Module) -> Iterator[None]:
    """Compute with the base alone meanwhile."""
    layers = [layer for _, layer in adapted_layers(module)]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True
