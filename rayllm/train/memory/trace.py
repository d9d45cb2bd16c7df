"""What a micro-batch keeps in memory, found by running the model's own code on shapes alone.

In: a model's sizes and how it is run. Out: the bytes held at the moment of forward and backward when they are most, by
the part of the model that made them. Nothing is computed: torch's fake tensors have shapes and no data, so a model of
any size is traced in about a second on any machine, and what changes in the model needs no change here.
"""

import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rayllm.model.config import ModelConfig
from rayllm.model.layers.token_losses import softmax_losses_
from rayllm.model.lora.adapt import adapt
from rayllm.model.lora.config import LoraConfig
from rayllm.model.transformer import Transformer
from rayllm.train.engine import trained_parameters
from rayllm.train.precision import AUTOCAST_DTYPES

#: What a module's work is called, by the end of its name; of several around it, the innermost says.
PARTS = {
    "norm": "norms",
    "self_attn": "attention",
    "mlp": "feed-forward",
    "lm_head": "head and loss",
    "embed_tokens": "embedding",
}
#: The rest of the forward pass, the backward pass, weights in the precision of the products, finished gradients.
RESIDUAL, BACKWARD = "residual stream and masks", "backward pass"
CASTS, GRADIENTS = "weights in half precision", "gradients"
#: Blocks of the two models from which a deeper one is extrapolated: each further block keeps as much as the one before.
FEW_LAYERS = (2, 4)


@dataclass(frozen=True)
class Shape:
    """A micro-batch, and how it is run.

    Attributes:
        rows: Rows of it.
        seq_len: Tokens of a row.
        precision: What matrix products are computed in.
        recompute: As ``train.activation_checkpointing``.
        document_mask: Whether attention stays within documents.
    """

    rows: int
    seq_len: int
    precision: str
    recompute: str
    document_mask: bool


def trace(model: ModelConfig, shape: Shape, *, keep_gradients: bool, lora: LoraConfig | None = None) -> dict[str, int]:
    """Bytes held at the peak of forward and backward, by part; without weights and inputs.

    Args:
        model: Sizes, with the vocabulary known.
        shape: Of the micro-batch.
        keep_gradients: Whether finished gradients count, as ``GRADIENTS``. They grow while activations fall; of a step
            of several micro-batches the caller counts them as kept all the time.
        lora: Adapters that are trained alone.
    """
    return dict(_remembered(model.model_dump_json(), shape, keep_gradients, lora.model_dump_json() if lora else ""))


@functools.lru_cache(maxsize=64)
def _remembered(sizes: str, shape: Shape, keep_gradients: bool, adapters: str) -> Mapping[str, int]:
    """The same trace is asked for at every ZeRO stage; the sizes are JSON, since configs have no hash."""
    model = ModelConfig.model_validate_json(sizes)
    lora = LoraConfig.model_validate_json(adapters) if adapters else None
    few, more = (max(layers, model.global_every) for layers in FEW_LAYERS)
    if model.num_layers <= more + 1:
        return _trace(model, shape, keep_gradients=keep_gradients, lora=lora)
    shallow, deeper = (model.model_copy(update={"num_layers": layers}) for layers in (few, more + 1))
    first = _trace(shallow, shape, keep_gradients=keep_gradients, lora=lora)
    second = _trace(deeper, shape, keep_gradients=keep_gradients, lora=lora)
    return _extrapolated(first, second, (model.num_layers - few) / (more + 1 - few))


def _extrapolated(first: dict[str, int], second: dict[str, int], factor: float) -> dict[str, int]:
    """Each part on the straight line through two depths."""
    parts = first | second
    return {part: round(first.get(part, 0) + factor * (second.get(part, 0) - first.get(part, 0))) for part in parts}


def _trace(model: ModelConfig, shape: Shape, *, keep_gradients: bool, lora: LoraConfig | None) -> dict[str, int]:
    dtype = AUTOCAST_DTYPES.get(shape.precision)
    autocast = contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)
    with FakeTensorMode():
        module = Transformer(model)
        if lora:
            adapt(module, lora, dtype)
        module.set_activation_checkpointing(shape.recompute)
        module.lm_head.softmax_losses = _OncePerShape()
        ids = torch.zeros(shape.rows, shape.seq_len, dtype=torch.int64)
        with _Held([*module.parameters(), ids], module) as held:
            for _, parameter in trained_parameters(module):
                parameter.register_post_accumulate_grad_hook(held.rename if keep_gradients else _drop)
            with autocast:
                losses = module(ids, ids, ids if shape.document_mask else None)
            with held.within(BACKWARD):
                losses.sum().backward()
    return {part: size for part, size in held.peak.items() if size}


class _OncePerShape:
    """The softmax of the loss goes through thousands of pieces, one after the other in the same memory.

    The first of a shape is run; of the others only what lasts is made, so that a trace does not take a minute.
    """

    def __init__(self) -> None:
        self._seen: set[torch.Size] = set()

    def __call__(self, logits: Tensor, targets: Tensor, softcap: float | None, z_loss: float) -> Tensor:
        if logits.shape in self._seen:
            return torch.empty(logits.shape[0], device=logits.device)
        self._seen.add(logits.shape)
        return softmax_losses_(logits, targets, softcap, z_loss)


def _drop(parameter: Tensor) -> None:
    """Finished gradients belong to the engine, which counts them as its own."""
    parameter.grad = None


@dataclass
class _Storage:
    """Memory that is alive: the part that made it, bytes, and a reference that tells of its end."""

    part: str
    size: int
    reference: Any


class _Held(TorchDispatchMode):
    """Counts the bytes of the storages that are alive, by the part of the model that made them.

    Args:
        outside: Tensors that do not count; the first of them are the weights.
        module: The model, whose modules say what is running.

    Attributes:
        peak: Bytes by part when there were most.
    """

    def __init__(self, outside: Iterable[Tensor], module: nn.Module) -> None:
        super().__init__()
        self.peak: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._most = 0
        self._running = [RESIDUAL]
        self._outside = {id(tensor.untyped_storage()) for tensor in outside}
        self._alive: dict[int, _Storage] = {}
        for name, part in module.named_modules():
            for ending, called in PARTS.items():
                if name.endswith(ending):
                    self._follow(part, called)

    def rename(self, parameter: Tensor) -> None:
        """Count a finished gradient as one."""
        if parameter.grad is not None:
            storage = parameter.grad.untyped_storage()
            if entry := self._alive.get(id(storage)):
                self._now[entry.part] -= entry.size
                self._now[GRADIENTS] += entry.size
                entry.part = GRADIENTS

    @contextlib.contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Count what is made meanwhile as a part's."""
        self._running.append(part)
        yield
        self._running.pop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and id(args[0].untyped_storage()) in self._outside
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage(), CASTS if cast else self._running[-1])
        return result

    def _follow(self, module: nn.Module, part: str) -> None:
        """Know when a module runs, also when it is run again in the backward pass and left by an exception."""
        module.register_forward_pre_hook(lambda *_: self._running.append(part))
        module.register_forward_hook(lambda *_: _nothing(self._running.pop()), always_call=True)

    def _count(self, storage: Any, part: str) -> None:
        key = id(storage)
        if key in self._outside or key in self._alive:
            return
        size = storage.nbytes()
        self._alive[key] = _Storage(part, size, weakref.ref(storage, lambda _: self._forget(key)))
        self._now[part] += size
        total = self._now.total()
        if total > self._most:
            self._most, self.peak = total, self._now.copy()

    def _forget(self, key: int) -> None:
        gone = self._alive.pop(key)
        self._now[gone.part] -= gone.size


def _nothing(_: object) -> None:
    """A forward hook that returns something would replace the module's result."""
