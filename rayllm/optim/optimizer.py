"""The optimiser that engines step: groups of parameters, each with its rule, behind clipping and a guard.

In: a model whose parameters have gradients, or flat tensors that ZeRO put in their place. Out: changed weights, or none
if a gradient is not finite.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rayllm.model.lora.adapt import adapter_splits
from rayllm.model.matrices import matrix_splits
from rayllm.model.transformer import Transformer
from rayllm.optim.adamw import AdamWRule
from rayllm.optim.config import AdamWConfig, MuonConfig
from rayllm.optim.groups import ParameterGroup, group_parameters
from rayllm.optim.layout import Piece, matrices_of
from rayllm.optim.muon import MuonRule
from rayllm.optim.schedules import Rates


class Rule(Protocol):
    """How the tensors of a group are updated; see ``AdamWRule`` and ``MuonRule``."""

    def new_state(self, tensor: Tensor) -> dict[str, Tensor]:
        """The state of a tensor before its first step: all but ``step`` is shaped like it, and saved in checkpoints."""
        ...

    def arrange(self, tensors: Sequence[Tensor], pieces: Sequence[Sequence[Piece]], rank: int) -> None:
        """Learn, before the first step, where parameters lie in the tensors of every rank."""
        ...

    def update(self, tensors: Sequence[Tensor], states: Sequence[dict[str, Tensor]], group: dict[str, Any]) -> None:
        """One step of a group: its ``lr``, ``weight_decay``, ``momentum`` and ``shrink``, which gradients are to be
        multiplied with, are those of this step."""
        ...


def build_optimizer(model: Transformer, config: AdamWConfig | MuonConfig) -> "GroupOptimizer":
    """The optimiser that a config asks for, over a model's trainable parameters.

    Args:
        model: Not yet partitioned.
        config: Settings.

    Raises:
        ConfigError: If no parameter is trainable.
    """
    groups = group_parameters(model, config, model.config.dim)
    splits = matrix_splits(model.config) | adapter_splits(model)
    return GroupOptimizer([(group, _rule(group, config, splits)) for group in groups])


def _rule(group: ParameterGroup, config: AdamWConfig | MuonConfig, splits: dict[str, tuple[int, ...]]) -> Rule:
    if group.orthogonal and isinstance(config, MuonConfig):
        matrices = matrices_of({name: parameter.shape for name, parameter in group.parameters}, splits)
        return MuonRule(config, matrices, group.parameters[0][1].device)
    return AdamWRule(config)


class GroupOptimizer(torch.optim.Optimizer):
    """Groups, each with a rule of its own; clips by the global norm, and never lets a non-finite gradient through.

    ZeRO 1 to 3 clip and guard by themselves over all ranks, replace the parameters of a group by flat partitions, and
    step one group at a time; ``max_norm`` stays None then.

    Attributes:
        max_norm: Clip to this norm (0: only measure); None leaves clipping and the guard to the caller.
        last_norm: Global gradient norm before clipping, of the last step.
        finite: Whether the gradient of the last step was; only then are weights changed.
        discard: Steps change nothing while this is set, as if there were no gradient.
    """

    def __init__(self, groups: Sequence[tuple[ParameterGroup, Rule]]) -> None:
        settings = [
            {
                "params": [parameter for _, parameter in group.parameters],
                "names": group.names,
                "rule": rule,
                "lr": 0.0,
                "lr_scale": group.lr_scale,
                "momentum": 0.0,
                "shrink": 1.0,
                "weight_decay": group.weight_decay,
            }
            for group, rule in groups
        ]
        super().__init__(settings, {})
        self.max_norm: float | None = None
        self.last_norm = 0.0
        self.finite = True
        self.discard = False

    def set_rates(self, rates: Rates) -> None:
        """Take over what the schedules say of the step to come."""
        for group in self.param_groups:
            group["lr"], group["momentum"] = rates.lr * group["lr_scale"], rates.momentum

    def arrange(self, group: int, tensors: Sequence[Tensor], pieces: Sequence[Sequence[Piece]], rank: int) -> None:
        """Tell a group's rule where parameters lie; before the first step, and before a state is filled.

        Args:
            group: Index of the group.
            tensors: What this rank updates in one step of the group.
            pieces: For each rank, what lies where in its tensors.
            rank: This rank.
        """
        rule = self.param_groups[group]["rule"]
        rule.arrange(tensors, pieces, rank)
        for tensor in tensors:
            self.state[tensor] = rule.new_state(tensor)

    def moments(self, tensor: Tensor) -> dict[str, Tensor]:
        """What an arranged tensor's state holds for each of its elements, by name."""
        return {name: value for name, value in self.state[tensor].items() if name != "step"}

    def set_applied_steps(self, steps: int) -> None:
        """Set the number of applied steps, which AdamW's bias correction needs."""
        for state in self.state.values():
            if "step" in state:
                state["step"].fill_(float(steps))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Clip and update, or skip a step whose gradient is not finite or not wanted."""
        shrink = 1.0 if self.max_norm is None else self._shrink(self.max_norm)
        if shrink is None or self.discard:
            return
        for group in self.param_groups:
            if group["params"]:
                group["shrink"] = shrink
                group["rule"].update(group["params"], [self.state[tensor] for tensor in group["params"]], group)

    def _shrink(self, max_norm: float) -> float | None:
        """What clips the gradients when they are multiplied with it; None if one is not finite."""
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        self.last_norm = float(torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms])))
        self.finite = math.isfinite(self.last_norm)
        if not self.finite:
            return None
        return max_norm / (self.last_norm + 1e-6) if 0 < max_norm < self.last_norm else 1.0
