"""Cross-entropy over a vocabulary, chunk after chunk of tokens, with its gradient made on the way.

The logits of a batch (tokens times vocabulary) would be by far the largest tensor of a training step. Here they exist
for one chunk of tokens at a time, and no chunk is multiplied out twice: all that the gradient needs is at hand in the
forward pass, so it is put in the place of the logits there, and multiplied with the output matrix and the rows. What
backward adds is one number, the same for all tokens where an objective is a sum, and only a scale then.

Source: Hsu et al. 2024, Liger Kernel, arXiv:2410.10989, section 3.2 (the gradient of the chunked loss in forward).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from rayllm.model.config import IGNORE_INDEX

#: Logits whose softmax is computed at a time: few enough for the processor's cache, enough to fill a GPU.
SOFTMAX_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}
#: Caps up to which no power of a score leaves float32, so that no maximum need be found and taken off first.
SMALL_CAP = 60.0
#: Most that is kept of one tensor from step to step, in bytes.
SCRATCH_BYTES = 2**28

Rows = Float[Tensor, "tokens width"]
Matrix = Float[Tensor, "vocab width"]
Targets = Int[Tensor, " tokens"]
Losses = Float[Tensor, " tokens"]
Logits = Float[Tensor, "tokens vocab"]


def softmax_losses_(logits: Logits, targets: Targets, softcap: float | None, z_loss: float) -> Losses:
    """The loss of each row, in float32; its gradient takes the place of the logits.

    Rows whose target is ``IGNORE_INDEX`` have some loss and some gradient: the caller leaves them out.

    Args:
        logits: What the output matrix gives; overwritten.
        targets: Ids, or ``IGNORE_INDEX``.
        softcap: See ``token_losses``.
        z_loss: See ``token_losses``.
    """
    scores, slope = _scores(logits, softcap)
    picked = targets.clamp(min=0)[:, None]
    losses, log_partition, powers, total = _losses_(scores, picked, softcap, z_loss)
    pull = powers.div_(total)
    if z_loss:
        pull = pull.mul_(1 + 2 * z_loss * log_partition)
    pull.scatter_add_(1, picked, torch.full_like(losses, -1.0))
    logits.copy_(slope(pull))
    return losses[:, 0]


def softmax_losses(logits: Logits, targets: Targets, softcap: float | None, z_loss: float) -> Losses:
    """The same losses where nothing is to be learnt: no gradient is made; the logits are used up as well."""
    scores, _ = _scores(logits, softcap)
    return _losses_(scores, targets.clamp(min=0)[:, None], softcap, z_loss)[0][:, 0]


def _scores(logits: Tensor, softcap: float | None) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Logits in float32, bounded to the cap, and what brings a gradient by them to the logits.

    ``tanh(x) = 2 sigmoid(2x) - 1``, and on a CPU the sigmoid takes a fraction of the time; it has fewer digits near
    zero, which a large cap would show.
    """
    if softcap is None:
        return logits.float(), lambda pull: pull
    if softcap > SMALL_CAP:
        bounded = torch.tanh(logits.float() / softcap)
        return bounded * softcap, lambda pull: torch.ops.aten.tanh_backward(pull, bounded)
    gate = torch.sigmoid(logits.float() * (2 / softcap))
    scores = torch.add(torch.full((), -softcap, device=gate.device), gate, alpha=2 * softcap)
    return scores, lambda pull: torch.ops.aten.sigmoid_backward(pull, gate).mul_(4)


def _losses_(
    scores: Tensor, picked: Tensor, softcap: float | None, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses of the picked ids; the logarithm of each softmax's denominator; its numerators, in the scores' place,
    and what divides these. All but the numerators are (tokens, 1)."""
    chosen, top = scores.gather(1, picked), 0.0
    if softcap is None or softcap > SMALL_CAP:
        top = scores.amax(-1, keepdim=True)
        scores, chosen = scores.sub_(top), chosen - top
    powers = scores.exp_()
    total = powers.sum(-1, keepdim=True)
    losses, log_partition = total.log() - chosen, total.log() + top
    return (losses + z_loss * log_partition.square() if z_loss else losses), log_partition, powers, total


#: ``softmax_losses_``, or the same compiled.
SoftmaxLosses = Callable[[Logits, Targets, float | None, float], Losses]


class Scratch:
    """Memory for what is made and dropped in every step, kept from one to the next.

    On CPUs tensors beyond glibc's 32 MiB come from the kernel page by page and empty, each time anew, which costs a
    tenth of the product that fills them. On a GPU torch's allocator keeps memory already.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """An uninitialised tensor of ``like``'s type, in the memory that the name had before, if that suffices."""
        size, kept = math.prod(shape), self._kept.get(name)
        if like.device.type != "cpu" or size * like.itemsize > SCRATCH_BYTES:
            return torch.empty(shape, dtype=like.dtype, device=like.device)
        if kept is None or kept.dtype != like.dtype or kept.numel() < size:
            with torch.inference_mode(False):  # what validation makes is to serve training
                kept = self._kept[name] = torch.empty(size, dtype=like.dtype)
        return kept[:size].view(*shape)


@dataclass(frozen=True)
class LossSettings:
    """How losses are computed.

    Attributes:
        softcap: Bound the logits to plus or minus this; see ``logits_of``.
        z_loss: Add for each token this times the square of the logarithm of the softmax's denominator. Source:
            Chowdhery et al. 2022, PaLM, arXiv:2204.02311, section 5.
        chunk_tokens: Rows whose logits exist at a time.
        kernel: What makes losses and gradient of logits.
        scratch: Where logits and products lie for a while.
    """

    softcap: float | None = None
    z_loss: float = 0.0
    chunk_tokens: int = 4096
    kernel: SoftmaxLosses = softmax_losses_
    scratch: Scratch = field(default_factory=Scratch)


def logits_of(
    rows: Float[Tensor, "*tokens width"], weight: Matrix, softcap: float | None
) -> Float[Tensor, "*tokens vocab"]:
    """Scores of every token in float32, bounded to plus or minus the cap.

    Source: Gemma Team 2024, Gemma 2, arXiv:2408.00118, section 2 (logit soft-capping).
    """
    logits = F.linear(rows, weight).float()
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def token_losses(rows: Rows, weight: Matrix, targets: Targets, settings: LossSettings | None = None) -> Losses:
    """Cross-entropy of each row's logits in nats, float32, 0 at ``IGNORE_INDEX``.

    Products are in autocast's dtype, if that is on, softmax and sums in float32. In inference mode only losses are
    computed.

    Args:
        rows: What is multiplied with the output matrix.
        weight: The output matrix.
        targets: Ids, or ``IGNORE_INDEX``.
        settings: By default neither bounds nor a z-loss.
    """
    settings = settings or LossSettings()
    device = rows.device.type
    if torch.is_autocast_enabled(device):
        rows = rows.to(torch.get_autocast_dtype(device))
    if torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad):
        return _TokenLosses.apply(rows, weight, targets, settings)
    counts = (targets != IGNORE_INDEX).to(torch.float32)
    return _losses_and_gradients(rows, weight, targets, counts, settings, (False, False))[0]


class _TokenLosses(torch.autograd.Function):
    """With ``p`` a row's gradient of the loss by its logits and ``g`` what backward is given for the row:
    ``drow = g p W`` and ``dW = Σ g p rowᵀ``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
        counts = (targets != IGNORE_INDEX).to(torch.float32)
        losses, *made = _losses_and_gradients(rows, weight, targets, counts, settings, ctx.needs_input_grad)
        ctx.save_for_backward(rows, weight, targets)
        ctx.settings, ctx.made = settings, made
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, weight, targets = ctx.saved_tensors
        if ctx.made and grad.stride(0) == 0:  # an expanded number: the gradient of a sum over the tokens
            rows_grad, weight_grad = (None if part is None else part.mul_(grad[0]) for part in ctx.made)
            ctx.made = None  # used up
        else:
            pulls = grad * (targets != IGNORE_INDEX)
            _, rows_grad, weight_grad = _losses_and_gradients(
                rows, weight, targets, pulls, ctx.settings, ctx.needs_input_grad
            )
        return None if rows_grad is None else rows_grad.to(rows.dtype), weight_grad, None, None


def _losses_and_gradients(
    rows: Tensor, weight: Tensor, targets: Tensor, pulls: Tensor, settings: LossSettings, needed: Sequence[bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Losses, and their gradients by rows and weight in float32 for a gradient of ``pulls`` by the losses."""
    kernel, take = settings.kernel if any(needed) else softmax_losses, settings.scratch.take
    matrix = weight if weight.dtype == rows.dtype else take("matrix", weight.shape, rows).copy_(weight)
    losses = torch.empty(rows.shape[0], device=rows.device)
    rows_grad = torch.empty(rows.shape, dtype=torch.float32, device=rows.device) if needed[0] else None
    weight_grad = None
    for part in _chunks(rows.shape[0], settings.chunk_tokens):
        logits = take("logits", (rows[part].shape[0], weight.shape[0]), rows)
        torch.mm(rows[part], matrix.t(), out=logits)
        losses[part] = _in_parts(kernel, logits, targets[part], settings)
        weights = pulls[part, None]
        if rows_grad is not None:
            torch.mul(logits @ matrix, weights, out=rows_grad[part])
        if needed[1]:
            product = None if rows.dtype == torch.float32 else take("product", weight.shape, rows)
            product = torch.mm(logits.t(), (rows[part] * weights).to(rows.dtype), out=product)
            weight_grad = product.float() if weight_grad is None else weight_grad.add_(product)
    return losses * (targets != IGNORE_INDEX), rows_grad, weight_grad


def _in_parts(kernel: SoftmaxLosses, logits: Tensor, targets: Tensor, settings: LossSettings) -> Tensor:
    """The kernel's losses, for as many rows at a time as are fast."""
    rows = max(1, SOFTMAX_ELEMENTS[logits.device.type] // logits.shape[1])
    parts = zip(logits.split(rows), targets.split(rows), strict=True)
    return torch.cat([kernel(part, ids, settings.softcap, settings.z_loss) for part, ids in parts])


def _chunks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, length, size))
