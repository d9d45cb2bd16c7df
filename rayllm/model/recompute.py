"""What a block keeps of its forward pass for the backward pass, and what it computes again: memory against time.

In: a block and its inputs. Out: what the block gives, with the same gradients, bit for bit. ``none`` keeps everything;
``full`` keeps a block's input and runs the whole block again; ``selective`` keeps the results of what is expensive,
matrix products and attention, and computes only what is cheap again: norms, rotations, activation functions, sums.

Source: Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174; Korthikanti et al. 2022,
Reducing Activation Recomputation in Large Transformer Models, arXiv:2205.05198, section 5 (selective).
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

#: Runs a block on its inputs.
BlockRunner = Callable[..., Tensor]

#: Operators whose results ``selective`` keeps, where the installed torch has them.
EXPENSIVE = frozenset(
    {
        "aten::mm",
        "aten::addmm",
        "aten::_scaled_mm",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "torch_attn::_varlen_attn",
        "flash_attn::_flash_attn_varlen_forward",
    }
)


def keep_all(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Run a block and keep what its backward pass needs."""
    return block(*inputs)


def recompute_all(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Run a block, keep only its inputs, and run it again in the backward pass."""
    return checkpoint(block, *inputs, use_reentrant=False)  # pyright: ignore[reportReturnType]


def recompute_cheap(block: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Run a block, keep its inputs and the results of ``EXPENSIVE``, and compute the rest again."""
    return checkpoint(block, *inputs, use_reentrant=False, context_fn=_keep_and_reuse)  # pyright: ignore[reportReturnType]


#: How blocks run, by ``train.activation_checkpointing``.
RUNNERS: Mapping[str, BlockRunner] = {"none": keep_all, "full": recompute_all, "selective": recompute_cheap}


def _keep_and_reuse() -> "tuple[_Keep, _Reuse]":
    kept: deque[_Kept] = deque()
    return _Keep(kept), _Reuse(kept)


class _Kept:
    """Results of one operator, which nobody may change until they are used again."""

    def __init__(self, results: Any) -> None:
        self._results = tree_map_only(Tensor, _view_that_sees_changes, results)
        self._versions = self._count_changes()

    def take(self) -> Any:
        """The results."""
        assert self._versions == self._count_changes(), "what selective recomputation keeps was changed in place"
        return self._results

    def _count_changes(self) -> Sequence[int]:
        return [leaf._version for leaf in tree_leaves(self._results) if isinstance(leaf, Tensor)]


def _view_that_sees_changes(tensor: Tensor) -> Tensor:
    """A detached tensor that counts changes together with the original; inside a mode, ``detach`` alone counts anew."""
    with torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.ADInplaceOrView, False):
        return tensor.detach()


class _Mode(TorchDispatchMode):
    """What both passes share."""

    def __init__(self, kept: deque[_Kept]) -> None:
        super().__init__()
        self._kept = kept

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled parts of a block stay compiled; they run again whole, since nothing inside them is seen."""
        return True


class _Keep(_Mode):
    """Collects the results of expensive operators, in their order.

    torch's own selective contexts count every operator, and the second pass must repeat the first one's; ZeRO 3 gathers
    parameters in both, in other portions. Here only what is kept counts.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if func.name() in EXPENSIVE:
            self._kept.append(_Kept(results))
        return results

    def __exit__(self, *exception: Any) -> None:
        """A block ends with a product that goes into a sum alone, so nothing in the backward pass asks for it."""
        super().__exit__(*exception)
        if self._kept:
            self._kept.pop()


class _Reuse(_Mode):
    """Answers expensive operators with what was kept; computes what was not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in EXPENSIVE and self._kept:
            return self._kept.popleft().take()
        return func(*args, **(kwargs or {}))
