"""How far a step moves the weights: the norm of the change over the norm of the weights, for each group of parameters.

In: an engine before and after a step. Out: a number for each group that the model has, the same on every rank and at
every ZeRO stage. Between 1e-4 and 1e-2 is usual; far below nothing is learnt, far above the weights are thrown about.
Of a group of more than ``LOOKED_AT`` elements every n-th one is looked at, so that a look costs the same at any size.
"""

from collections import Counter
from collections.abc import Callable
from itertools import compress

import torch
from torch import Tensor, nn

from rayllm.optim.groups import GROUPS, groups_of
from rayllm.train import collective
from rayllm.train.engine import Engine

#: Elements of a group that are looked at, about.
LOOKED_AT = 8_192


class UpdateRatios:
    """Compares the master weights before and after a step.

    Args:
        module: The model with whole parameters; their values are not looked at, so it may be on the ``meta`` device.
    """

    def __init__(self, module: nn.Module) -> None:
        sizes, groups = {name: parameter.numel() for name, parameter in module.named_parameters()}, groups_of(module)
        totals = Counter[str]()
        for name, group in groups.items():
            totals[group] += sizes[name]
        self._places = {name: (GROUPS.index(group), _stride(totals[group])) for name, group in groups.items()}
        present = {group for group, _ in self._places.values()}
        self._present = [group in present for group in range(len(GROUPS))]

    def begin(self, engine: Engine) -> Callable[[], dict[str, float]]:
        """Remember the weights.

        Returns:
            To be called after the step, by all ranks together: ``update_ratio/<group>`` of every group whose weights
            were not all zero.
        """
        now, groups, strides = self._looked_at(engine)
        before = [tensor.clone() for tensor in now]

        def finish() -> dict[str, float]:
            changes = torch._foreach_sub(now, before)
            sums = _sums_of_squares([*changes, *before], groups, strides)
            changed, weights = collective.sum_over_ranks(sums).view(2, len(GROUPS))
            measured = [present and total > 0 for present, total in zip(self._present, weights.tolist(), strict=True)]
            ratios = (changed / weights).sqrt().tolist()
            return {
                f"update_ratio/{name}": ratio for name, ratio in compress(zip(GROUPS, ratios, strict=True), measured)
            }

        return finish

    def _looked_at(self, engine: Engine) -> tuple[list[Tensor], list[int], list[int]]:
        """Views of this rank's share of the master weights, the group of each, and how many elements one stands for."""
        found = []
        for item in engine.owned_slices():
            if item.kind == "master" and item.param in self._places:
                group, stride = self._places[item.param]
                view = item.tensor[-item.offset % stride :: stride]  # the same elements, however the parameter is cut
                if view.numel():
                    found.append((view, group, stride))
        views, groups, strides = zip(*found, strict=True) if found else ((), (), ())
        return list(views), list(groups), list(strides)


def _stride(size: int) -> int:
    """Odd, so that the elements looked at wander over all columns of a matrix, whose width is even."""
    return -(-size // LOOKED_AT) | 1


def _sums_of_squares(tensors: list[Tensor], groups: list[int], strides: list[int]) -> Tensor:
    """For the changes, then for the weights: a sum for each group, float64 on the CPU."""
    sums = torch.zeros(2 * len(GROUPS), dtype=torch.float64)
    if tensors:
        norms = torch.stack(torch._foreach_norm(tensors)).cpu().double()
        places = torch.tensor(groups + [len(GROUPS) + group for group in groups])
        sums.index_add_(0, places, norms.square() * torch.tensor(strides * 2))
    return sums
