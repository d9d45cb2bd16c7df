"""Who gets which learning rate, decay and update rule: a model's parameters in groups.

In: a model and the optimiser's settings. Out: one ``ParameterGroup`` for each set of parameters with equal settings.
Fewer groups are faster under ZeRO, so groups that need nothing of their own are merged.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from rayllm.core.errors import ConfigError
from rayllm.model.layers.embeddings import LMHead
from rayllm.optim.config import AdamWConfig, GroupConfig, GroupsConfig, MuonConfig

#: Names of the groups, those of ``GroupsConfig``.
GROUPS: tuple[str, ...] = ("matrices", "head", "embedding", "vectors")
#: Groups whose parameters decay unless their own settings say otherwise.
DECAYING = ("matrices", "head")

#: Exponent of ``base_width / width`` in the learning rate of AdamW's groups. ``mup``: Yang et al. 2022, Tensor Programs
#: V, arXiv:2203.03466, table 3 (Adam). ``sqrt``: Karpathy 2025, nanochat, ``optim.py``, for embedding and head; here
#: for matrices under AdamW too.
WIDTH_EXPONENTS = {
    "none": {},
    "mup": {"matrices": 1.0, "head": 1.0},
    "sqrt": {"matrices": 0.5, "head": 0.5, "embedding": 0.5},
}

#: The same for matrices under Muon. Its update has singular values of about one times the scale, and features change
#: alike at all widths if the update's spectral norm is sqrt(rows / cols): with ``spectral`` it is, with ``rms`` it is
#: too large by the root of the width. Source: Yang, Simon and Bernstein 2023, arXiv:2310.17813, condition 1.
MUON_WIDTH_EXPONENTS = {"rms": 0.5, "spectral": 0.0}


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that are updated alike.

    Attributes:
        names: The groups of ``GroupsConfig`` that are in it.
        parameters: Name and parameter.
        lr_scale: Factor on the learning rate.
        weight_decay: Decoupled decay per step, times the learning rate.
        orthogonal: Whether Muon updates them, else AdamW.
    """

    names: tuple[str, ...]
    parameters: list[tuple[str, nn.Parameter]]
    lr_scale: float
    weight_decay: float
    orthogonal: bool


def group_parameters(module: nn.Module, config: AdamWConfig | MuonConfig, width: int) -> list[ParameterGroup]:
    """Sort the trainable parameters of a model.

    Args:
        module: The model; a parameter's group follows from the module that owns it and from its dimensions.
        config: Settings of the optimiser.
        width: Width of the residual stream.

    Raises:
        ConfigError: If no parameter is trainable.
    """
    found = _sorted(module)
    merged: dict[tuple[float, float, bool], ParameterGroup] = {}
    for name, settings in _settings(config.groups).items():
        parameters = found.get(name)
        if parameters is None:
            continue
        orthogonal = name == "matrices" and isinstance(config, MuonConfig)
        decay = settings.weight_decay
        if decay is None:
            decay = config.weight_decay if name in DECAYING else 0.0
        lr_scale = settings.lr_scale * width_factor(config, name, width)
        group = ParameterGroup((name,), parameters, lr_scale, decay, orthogonal)
        known = merged.get((lr_scale, decay, orthogonal))
        merged[lr_scale, decay, orthogonal] = group if known is None else _merge(known, group)
    if not merged:
        raise ConfigError("the model has no trainable parameter", fix="leave some parameters unfrozen")
    return list(merged.values())


def groups_of(module: nn.Module) -> dict[str, str]:
    """The group of each trainable parameter of a model, by the parameter's name."""
    return {name: group for group, members in _sorted(module).items() for name, _ in members}


def width_factor(config: AdamWConfig | MuonConfig, group: str, width: int) -> float:
    """Factor on a group's learning rate that comes from the width: 1 at ``base_width``."""
    exponent = WIDTH_EXPONENTS[config.width_scaling].get(group, 0.0)
    if config.width_scaling != "none" and group == "matrices" and isinstance(config, MuonConfig):
        exponent = MUON_WIDTH_EXPONENTS[config.update_scale]
    return (config.base_width / width) ** exponent


def _sorted(module: nn.Module) -> dict[str, list[tuple[str, nn.Parameter]]]:
    found: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for owner, name, parameter in _owned(module):
        found.setdefault(_group_of(owner, parameter), []).append((name, parameter))
    return found


def _settings(groups: GroupsConfig) -> dict[str, GroupConfig]:
    return {"matrices": groups.matrices, "head": groups.head, "embedding": groups.embedding, "vectors": groups.vectors}


def _owned(module: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Each trainable parameter once, with its first owner (a tied matrix belongs to the embedding) and full name."""
    seen: set[int] = set()
    for prefix, owner in module.named_modules():
        for name, parameter in owner.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                yield owner, f"{prefix}.{name}" if prefix else name, parameter


def _group_of(owner: nn.Module, parameter: nn.Parameter) -> str:
    if parameter.ndim < 2:
        return "vectors"
    if isinstance(owner, nn.Embedding):
        return "embedding"
    return "head" if isinstance(owner, LMHead) else "matrices"


def _merge(left: ParameterGroup, right: ParameterGroup) -> ParameterGroup:
    names, parameters = left.names + right.names, left.parameters + right.parameters
    return ParameterGroup(names, parameters, left.lr_scale, left.weight_decay, left.orthogonal)
