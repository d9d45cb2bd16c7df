"""The engine protocol: gradients in, weights out, and every number of the state reachable as slices.

``TorchEngine`` is the plain implementation: replicated weights, gradients averaged over the process group if there is
one. ``train.deepspeed_engine`` is the same protocol on ZeRO. The loop knows only the protocol.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from rayllm.data.batches import Batch
from rayllm.model.transformer import Transformer
from rayllm.optim.config import AdamWConfig, MuonConfig
from rayllm.optim.layout import Piece
from rayllm.optim.optimizer import GroupOptimizer, build_optimizer
from rayllm.optim.schedules import Rates
from rayllm.train import collective
from rayllm.train.loss_scale import LossScaler
from rayllm.train.precision import AUTOCAST_DTYPES


@dataclass(frozen=True)
class Slice:
    """A run of elements of one parameter's state, as this rank holds it.

    Attributes:
        param: Name of the parameter.
        kind: ``master`` (float32 weights), or the name of a moment that the optimiser keeps.
        offset: First element, in the flattened parameter.
        tensor: One-dimensional float32 view of the engine's own memory; writing to it changes the state.
    """

    param: str
    kind: str
    offset: int
    tensor: Tensor

    def part(self, start: int, stop: int) -> "Slice":
        """The elements ``start`` to ``stop`` of this slice."""
        return Slice(self.param, self.kind, self.offset + start, self.tensor[start:stop])


@dataclass(frozen=True)
class Holding:
    """What one step of a group updates on this rank.

    Attributes:
        group: Index of the optimiser's group.
        tensors: What the optimiser steps: whole parameters, or flat partitions.
        pieces: Which part of which parameter lies where in them.
    """

    group: int
    tensors: list[Tensor]
    pieces: list[Piece]


@dataclass(frozen=True)
class StepOutcome:
    """What an optimizer step did.

    Attributes:
        grad_norm: Global, before clipping.
        applied: Whether weights changed.
        lowered_scale: Whether the step was skipped and the loss scale lowered for it, so that the next may do.
    """

    grad_norm: float
    applied: bool
    lowered_scale: bool = False


class Engine(Protocol):
    """Owns forward, backward, step and the state of one rank."""

    device: torch.device
    world_size: int
    rank: int
    scaler: LossScaler

    def token_losses(self, batch: Batch) -> Float[Tensor, "rows seq"]:
        """Loss of every token of a batch, in nats; 0 where the label is ignored."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradient; losses of all ranks and micro-batches are summed."""
        ...

    def step(self, rates: Rates, *, discard: bool = False) -> StepOutcome:
        """Apply the summed gradient, or nothing where it is to be discarded, and clear it."""
        ...

    def slices(self) -> list[Slice]:
        """All state that this rank holds."""
        ...

    def owned_slices(self) -> list[Slice]:
        """The part of ``slices`` that this rank writes; over all ranks every element once."""
        ...

    def restored(self, optimizer_steps: int) -> None:
        """Tell the engine that its slices were written, after so many applied steps."""
        ...

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole float32 value of every trained parameter, one at a time; all ranks must iterate together."""
        ...

    @property
    def module(self) -> nn.Module:
        """The model, for sampling; with sharded parameters all ranks must call it together."""
        ...


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which forward passes of a precision run."""
    dtype = AUTOCAST_DTYPES.get(precision)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def share(length: int, rank: int, world_size: int) -> tuple[int, int]:
    """The range of a flat parameter that a rank writes when all ranks hold all of it."""
    size = math.ceil(length / world_size)
    return min(length, rank * size), min(length, (rank + 1) * size)


class TorchEngine:
    """Plain PyTorch: every rank holds all parameters; gradients are summed over ranks before the step."""

    def __init__(
        self,
        module: Transformer,
        config: AdamWConfig | MuonConfig,
        precision: str,
        device: torch.device,
        *,
        document_mask: bool = True,
    ) -> None:
        self.device = device
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self._module = module.to(device)
        self._precision, self._document_mask = precision, document_mask
        self.scaler = LossScaler(dynamic=precision == "fp16")
        self._optimizer = build_optimizer(self._module, config)
        self._optimizer.max_norm = config.grad_clip
        self._holdings = whole_parameters(self._module, self._optimizer)
        arrange(self._optimizer, self._holdings)

    @property
    def module(self) -> nn.Module:
        """The model."""
        return self._module

    def token_losses(self, batch: Batch) -> Float[Tensor, "rows seq"]:
        """See ``Engine``."""
        with autocast(self.device, self._precision):
            return self._module(batch.input_ids, batch.labels, batch.doc_ids if self._document_mask else None)

    def backward(self, loss: Tensor) -> None:
        """See ``Engine``."""
        (loss * self.scaler.scale if self.scaler.dynamic else loss).backward()

    def step(self, rates: Rates, *, discard: bool = False) -> StepOutcome:
        """See ``Engine``."""
        self.scaler.unscale(self._module)
        if self.world_size > 1:
            for parameter in self._module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
        self._optimizer.set_rates(rates)
        self._optimizer.discard = discard
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        finite = self._optimizer.finite
        return StepOutcome(self._optimizer.last_norm, finite and not discard, self.scaler.update(finite=finite))

    def slices(self) -> list[Slice]:
        """See ``Engine``."""
        return slices_of(self._holdings, self._optimizer)

    def owned_slices(self) -> list[Slice]:
        """See ``Engine``."""
        return owned_share(self.slices(), self.rank, self.world_size)

    def restored(self, optimizer_steps: int) -> None:
        """See ``Engine``."""
        self._optimizer.set_applied_steps(optimizer_steps)

    def full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """See ``Engine``."""
        for name, parameter in trained_parameters(self._module):
            yield name, parameter.detach()


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Name and parameter, where it is not frozen."""
    return (pair for pair in module.named_parameters() if pair[1].requires_grad)


def whole_parameters(module: nn.Module, optimizer: GroupOptimizer) -> list[Holding]:
    """What a rank holds when it holds all: a holding for each group, a piece for each parameter."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    found = []
    for index, group in enumerate(optimizer.param_groups):
        tensors = group["params"]
        pieces = [Piece(names[tensor], 0, tensor.numel(), holder, 0) for holder, tensor in enumerate(tensors)]
        found.append(Holding(index, tensors, pieces))
    return found


def arrange(optimizer: GroupOptimizer, holdings: list[Holding]) -> None:
    """Tell the optimiser what every rank holds; all ranks call it together, before the first step."""
    of_ranks = collective.gather([holding.pieces for holding in holdings])
    for index, holding in enumerate(holdings):
        pieces = [of_rank[index] for of_rank in of_ranks]
        optimizer.arrange(holding.group, holding.tensors, pieces, collective.rank())


def slices_of(holdings: list[Holding], optimizer: GroupOptimizer) -> list[Slice]:
    """Master weights and moments of all pieces, as views."""
    found = []
    for holding in holdings:
        values = [{"master": tensor.detach()} | optimizer.moments(tensor) for tensor in holding.tensors]
        for piece in holding.pieces:
            for kind, value in values[piece.holder].items():
                view = value.view(-1).narrow(0, piece.at, piece.length)
                found.append(Slice(piece.param, kind, piece.offset, view))
    return found


def owned_share(slices: list[Slice], rank: int, world_size: int) -> list[Slice]:
    """Of slices that every rank holds whole, the parts that this rank writes."""
    return [part for whole in slices if (part := _own_share(whole, rank, world_size)) is not None]


def _own_share(whole: Slice, rank: int, world_size: int) -> Slice | None:
    start, stop = share(whole.tensor.numel(), rank, world_size)
    return whole.part(start, stop) if stop > start else None
