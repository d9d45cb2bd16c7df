"""Matrix products of the blocks in 8-bit floating point, by torchao; embeddings, norms and the head stay bf16.

In: a model in float32. Out: the same model, same parameter names, whose linear layers inside the blocks scale and cast
their inputs, weights and gradients to 8 bits for each product. Nothing is imported from torch before it is needed.
"""

import dataclasses
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rayllm.core.errors import SetupError
from rayllm.model.config import ModelConfig
from rayllm.train.config import Fp8Config

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rayllm.model.transformer import Transformer

#: Rows and columns of what the hardware multiplies come in multiples of this.
MULTIPLE = 16
#: Width from which fp8 is faster than bf16 (one H200, scales per tensor, compiled); below, casts cost more than is won.
PAYS_FROM_DIM = 1280
#: Compute capability that each recipe needs.
CAPABILITY = {"tensorwise": (8, 9), "rowwise": (9, 0)}


def misfits(model: ModelConfig, seq_lens: Iterable[int]) -> list[str]:
    """The sizes that 8-bit products cannot have; empty if all fit.

    Args:
        model: Sizes of the model.
        seq_lens: Lengths of the rows of all stages; the gradient of a matrix is a product over the tokens.
    """
    qkv = model.query_dim + 2 * model.kv_dim
    sizes = {
        "model.dim": model.dim,
        "model.ffn_dim": model.ffn_dim,
        "model.num_heads times head_dim": model.query_dim,
        "query, key and value channels together (model.num_heads, model.num_kv_heads, model.head_dim)": qkv,
    }
    found = [f"{name} is {size}" for name, size in sizes.items() if size % MULTIPLE]
    lengths = sorted({length for length in seq_lens if length % MULTIPLE})
    return found + [f"a seq_len is {length}" for length in lengths]


def check_hardware(config: Fp8Config, device: "torch.device") -> None:
    """Refuse fp8 where it cannot run, unless emulation was asked for.

    Raises:
        SetupError: If torchao is missing, or the device has no fp8 for the recipe.
    """
    _import_float8()
    if config.emulate:
        return
    if device.type != "cuda":
        raise _no_fp8(config, f"this machine computes on its {device.type.upper()}")
    import torch

    check_capability(config, torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))


def check_capability(config: Fp8Config, name: str, capability: tuple[int, int]) -> None:
    """Refuse fp8 on a GPU that has none, unless emulation was asked for; the GPU need not be here.

    Raises:
        SetupError: If it has no fp8 for the recipe.
    """
    if not config.emulate and capability < CAPABILITY[config.recipe]:
        raise _no_fp8(config, f"{name} has compute capability {capability[0]}.{capability[1]}")


def _no_fp8(config: Fp8Config, found: str) -> SetupError:
    needed = CAPABILITY[config.recipe]
    return SetupError(
        f"no fp8 ({config.recipe}) on this hardware",
        where="train.precision=fp8",
        why=f"it needs an NVIDIA GPU of compute capability {needed[0]}.{needed[1]} or later; {found}",
        fix="set train.precision=bf16, or train.fp8.emulate=true to see what fp8 does to the loss (slowly)",
    )


def convert(module: "Transformer", config: Fp8Config) -> None:
    """Let the linear layers inside the blocks compute in fp8, in place.

    Args:
        module: With its weights; not yet partitioned.
        config: Which scales, and whether to emulate.

    Source: Micikevicius et al. 2022, FP8 Formats for Deep Learning, arXiv:2209.05433; ``torchao.float8``.
    """
    float8 = _import_float8()
    recipe = float8.Float8LinearConfig.from_recipe_name(config.recipe)
    recipe = dataclasses.replace(recipe, emulate=config.emulate)
    float8.convert_to_float8_training(module, config=recipe, module_filter_fn=lambda _, name: ".layers." in name)
    if config.emulate:
        for part in module.modules():
            if isinstance(part, float8.float8_linear.Float8Linear):
                part.register_forward_pre_hook(_cast_to_autocast)


def _cast_to_autocast(_: "nn.Module", inputs: "tuple[torch.Tensor]") -> "tuple[torch.Tensor]":
    """What torchao does under autocast on GPUs only: without it, emulated layers would give float32."""
    import torch

    device = inputs[0].device.type
    if not torch.is_autocast_enabled(device):
        return inputs
    return (inputs[0].to(torch.get_autocast_dtype(device)),)


def _import_float8() -> Any:
    for name in ("torchao", "torch.utils._pytree"):  # kernels for other machines, a deprecation that is torchao's
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        import torchao.float8
        import torchao.float8.float8_linear
    except ImportError as error:
        raise SetupError(
            "fp8 needs torchao, which is not installed",
            where="train.precision=fp8",
            fix='pip install "rayllm[gpu]", or set train.precision=bf16',
        ) from error
    return torchao.float8
