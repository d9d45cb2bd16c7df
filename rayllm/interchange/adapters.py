"""A checkpoint of adapters to a model: its base, wherever that lies, with the adapters beside or in its matrices."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged
from rayllm.interchange.base import Base
from rayllm.interchange.weights import read_tensors
from rayllm.model.config import ModelConfig
from rayllm.model.lora.adapt import adapt, adapted_layers
from rayllm.model.lora.saved import ADAPTERS, AdapterNote
from rayllm.model.transformer import Transformer


def load_adapted(config: ModelConfig, uri: str, note: AdapterNote) -> Transformer:
    """The base with adapters beside its matrices, float32.

    Args:
        config: Of the checkpoint.
        uri: The checkpoint, verified.
        note: What it says of its base.

    Raises:
        ArtifactDamaged: If the base is gone, is another one than the adapters were trained on, or does not fit.
    """
    module = with_adapters(config, uri, note)
    module.load_state_dict(dict(base_parameters(config, note)), assign=True, strict=False)
    module.tie_weights()
    left = [name for name, parameter in module.named_parameters() if parameter.is_meta]
    if left:
        raise ArtifactDamaged("the base of adapters lacks weights", where=note.base, why=", ".join(left[:3]))
    return module


def with_adapters(config: ModelConfig, uri: str, note: AdapterNote) -> Transformer:
    """A model whose adapters have a checkpoint's weights; all others are still on the ``meta`` device.

    Raises:
        ArtifactDamaged: If the adapters are not those of such a model.
    """
    with torch.device("meta"):
        module = Transformer(config)
    adapt(module, note.lora)
    tensors = read_tensors(storage.join(uri, ADAPTERS))
    expected = {name: parameter.shape for name, parameter in module.named_parameters() if parameter.requires_grad}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != expected:
        names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ArtifactDamaged(
            "adapters do not fit the model that they were saved with", where=uri, why=", ".join(names[:3])
        )
    module.load_state_dict(tensors, assign=True, strict=False)
    return module


def base_parameters(config: ModelConfig, note: AdapterNote) -> Iterator[tuple[str, Tensor]]:
    """The parameters of the base, once it is certain that it is the one that the adapters were trained on."""
    base = Base.parse(note.base)
    base.check(note.sha256)
    return base.parameters(config)


def merged_parameters(config: ModelConfig, uri: str, note: AdapterNote) -> Iterator[tuple[str, Tensor]]:
    """The parameters of the base, one at a time, with the adapters in them; see ``load_adapted``."""
    layers = {f"{name}.weight": layer for name, layer in adapted_layers(with_adapters(config, uri, note))}
    for name, tensor in base_parameters(config, note):
        yield name, layers[name].merged(tensor) if name in layers else tensor
