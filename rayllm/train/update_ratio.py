"""How far a step moves the weights: the norm of the change over the norm of the weights, for each group of parameters.

In: an engine before and after a step. Out: a number for each group that the model has, the same on every rank and at
every ZeRO stage. Between 1e-4 and 1e-2 is usual; far below nothing is learnt, far above the weights are thrown about.
Of a group of more than ``LOOKED_AT`` elements every n-th one is looked at, so that a look costs the same at any size.
"""

from collections import Counter
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

from rayllm.optim.groups import GROUPS, groups_of
from rayllm.train import collective
from rayllm.train.engine import Engine

#: Elements of a group that are looked at, about.
LOOKED_AT = 4_096


class UpdateRatios:
    """Compares the master weights before and after a step.

    Args:
        module: The model with whole parameters; their values are not looked at, so it may be on the ``meta`` device.
        engine: Holds the weights; they stay where they are now, whatever is written to them.
    """

    def __init__(self, module: nn.Module, engine: Engine) -> None:
        groups = groups_of(module)
        totals = Counter[str]()
        for name, parameter in module.named_parameters():
            if name in groups:
                totals[groups[name]] += parameter.numel()
        self._groups = [group for group in GROUPS if group in totals]
        strides = [_stride(totals[group]) for group in self._groups]
        views: list[list[Tensor]] = [[] for _ in self._groups]
        for item in engine.owned_slices():
            if item.kind == "master" and item.param in groups:
                place = self._groups.index(groups[item.param])
                stride = strides[place]
                views[place].append(item.tensor[-item.offset % stride :: stride])  # the same, however it is cut
        self._lengths = [sum(view.numel() for view in of_group) for of_group in views]
        self._stands_for = torch.tensor([strides, strides], dtype=torch.float64)
        self._views = list(chain.from_iterable(views))

    def look(self) -> Tensor:
        """What is looked at of this rank's share of the master weights, one group after another."""
        return torch.cat(self._views) if self._views else torch.zeros(0)

    def since(self, before: Tensor) -> Callable[[], dict[str, float]]:
        """Compare the weights with what they were at an earlier look; all ranks call it together.

        Returns:
            Waits until the ranks have added up, which is only begun, and gives ``update_ratio/<group>`` of every group
            whose weights were not all zero.
        """
        of_groups = [*(self.look() - before).split(self._lengths), *before.split(self._lengths)]
        norms = torch.stack(torch._foreach_norm(of_groups)).cpu().double().view(2, -1)
        sums = norms.square_().mul_(self._stands_for)
        wait = collective.begin_sum(sums)

        def ratios() -> dict[str, float]:
            wait()
            changed, weights = sums
            found = zip(self._groups, (changed / weights).sqrt().tolist(), weights.tolist(), strict=True)
            return {f"update_ratio/{group}": ratio for group, ratio, total in found if total > 0}

        return ratios


def _stride(size: int) -> int:
    """Odd, so that the elements looked at wander over all columns of a matrix, whose width is even."""
    return -(-size // LOOKED_AT) | 1
