"""Which kernel computes attention: chosen once for a run, by what the machine has and what the model's masks need.

In: what was asked for, the device, the model. Out: a choice with its reason, for the console and environment.json, and
the kernel for ``Transformer.set_attention_kernel``. A name is obeyed or refused, never replaced.
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from rayllm.core.errors import SetupError
from rayllm.model.config import ModelConfig
from rayllm.model.layers.flex import flex_over_rows
from rayllm.model.layers.varlen import PackedAttention, flash_varlen, torch_varlen, varlen_over_rows
from rayllm.model.layers.visibility import Outlook, Visibility

#: From a layer's outlook, the length of the rows, documents and token ids to what its queries see.
Kernel = Callable[[Outlook, int, Int[Tensor, "batch seq"] | None, Int[Tensor, "batch seq"]], Visibility]
#: Largest head of the FlashAttention kernels, and smallest of FlexAttention's.
FLASH_MAX_HEAD_DIM, FLEX_MIN_HEAD_DIM = 256, 16


def dense(
    outlook: Outlook, seq: int, doc_ids: Int[Tensor, "batch seq"] | None, input_ids: Int[Tensor, "batch seq"]
) -> Visibility:
    """torch's SDPA, with a mask where attention is not plainly causal."""
    return outlook.over_rows(seq, doc_ids, input_ids.device)


def flex(
    outlook: Outlook, seq: int, doc_ids: Int[Tensor, "batch seq"] | None, input_ids: Int[Tensor, "batch seq"]
) -> Visibility:
    """FlexAttention; plainly causal attention stays SDPA's."""
    if doc_ids is None and outlook.is_plain(seq):
        return outlook.over_rows(seq, None, input_ids.device)
    return flex_over_rows(outlook, seq, doc_ids, input_ids.device)


def _packed(
    kernel: PackedAttention,
    outlook: Outlook,
    seq: int,
    doc_ids: Int[Tensor, "batch seq"] | None,
    input_ids: Int[Tensor, "batch seq"],
) -> Visibility:
    """A kernel over documents laid end to end; plainly causal attention stays SDPA's."""
    if doc_ids is None and outlook.is_plain(seq):
        return outlook.over_rows(seq, None, input_ids.device)
    return varlen_over_rows(outlook, kernel, input_ids.shape[0], seq, doc_ids, input_ids.device)


KERNELS: dict[str, Kernel] = {
    "flash": partial(_packed, flash_varlen),
    "varlen": partial(_packed, torch_varlen),
    "flex": flex,
    "sdpa": dense,
}


@dataclass(frozen=True)
class KernelChoice:
    """A kernel's name, and why it."""

    name: str
    why: str

    @property
    def kernel(self) -> Kernel:
        """What computes."""
        return KERNELS[self.name]


def choose_kernel(
    asked: str, device: torch.device, config: ModelConfig, *, half: bool, document_mask: bool
) -> KernelChoice:
    """The kernel of a run.

    Args:
        asked: ``auto`` or a name of ``KERNELS``.
        device: Where the model computes.
        config: Its positions, windows and heads.
        half: Whether queries and keys are bf16 or fp16.
        document_mask: Whether rows hold documents that must not see each other.

    Raises:
        SetupError: If the kernel asked for cannot compute this model's attention here.
    """
    if asked != "auto":
        obstacle = _obstacle(asked, device, config, half=half)
        if obstacle:
            raise SetupError(
                f"attention by {asked} is not possible here",
                where=f"train.attention={asked}",
                why=obstacle,
                fix="set train.attention=auto, and the console says what was chosen",
            )
        return KernelChoice(asked, "asked for")
    windowed = any(config.window_of(layer) is not None for layer in range(config.num_layers))
    if not document_mask and not windowed and config.positions.kind != "alibi":
        return KernelChoice("sdpa", "plain causal attention")
    obstacles = {name: _obstacle(name, device, config, half=half) for name in KERNELS}
    chosen = next(name for name, obstacle in obstacles.items() if not obstacle)
    passed_over = [f"{name}: {obstacle}" for name, obstacle in obstacles.items() if obstacle]
    if device.type != "cuda":
        return KernelChoice(chosen, f"the {device.type.upper()} has no other")
    return KernelChoice(chosen, "; ".join(passed_over) or "the fastest for masks")


def _obstacle(name: str, device: torch.device, config: ModelConfig, *, half: bool) -> str:
    """What keeps a kernel from computing a model's attention; empty if nothing does."""
    if name == "sdpa":
        return ""
    if device.type != "cuda":
        return f"it trains on CUDA GPUs only, and the device is {device.type}"
    head_dim = config.resolved_head_dim
    if name == "flex":
        return f"head_dim {head_dim} is below {FLEX_MIN_HEAD_DIM}" if head_dim < FLEX_MIN_HEAD_DIM else ""
    if not half:
        return "it wants bf16 or fp16"
    if head_dim > FLASH_MAX_HEAD_DIM or head_dim % 8:
        return f"it wants a head_dim in steps of 8 up to {FLASH_MAX_HEAD_DIM}, not {head_dim}"
    if name == "flash":
        return "" if importlib.util.find_spec("flash_attn") else "the package flash-attn is not installed"
    if config.positions.kind == "alibi":
        return "it knows no linear biases (alibi)"
    return "" if _torch_has_varlen() else f"torch {torch.__version__} has no varlen_attn with windows and grouped heads"


def _torch_has_varlen() -> bool:
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return False
    from torch.nn.attention.varlen import varlen_attn

    return {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)
