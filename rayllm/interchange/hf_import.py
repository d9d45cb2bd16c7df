"""A model in a layout of Hugging Face's transformers to ours: GPT-2, Llama, Qwen3.

In: a directory or URI with ``config.json`` and safetensors. Out: our config, and our parameters one at a time.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rayllm.core import storage
from rayllm.core.errors import ArtifactDamaged, ConfigError
from rayllm.interchange.layouts import Part, from_hf_config, join, parts
from rayllm.interchange.weights import TensorFiles
from rayllm.model.config import ModelConfig
from rayllm.model.transformer import Transformer

CONFIG_JSON = "config.json"
#: Tensors that hold nothing that was learned.
IGNORED = re.compile(r"(\.attn\.(masked_)?bias|rotary_emb\.inv_freq)$")
#: GPT-2's own files lack it.
GPT2_PREFIX = "transformer."


def read_model_config(uri: str) -> ModelConfig:
    """Sizes and choices of a model of transformers.

    Args:
        uri: Its directory, anywhere that fsspec reads (``hf://org/name`` too).

    Raises:
        ConfigError: If there is no such model, or ours cannot be like it.
    """
    where = storage.join(uri, CONFIG_JSON)
    try:
        content: dict[str, Any] = json.loads(storage.read_bytes(where))
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no model of transformers here", where=where, fix="name a directory with a config.json"
        ) from error
    except ValueError as error:
        raise ArtifactDamaged("the config of a model cannot be read", where=where, why=str(error)) from error
    return from_hf_config(content, where)


def iter_parameters(uri: str, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """Our parameters, float32, in the order of our table; a shard at a time is open.

    Args:
        uri: Directory of the model.
        config: What ``read_model_config`` gave, or the same with more rows of vocabulary (they are zeros).

    Raises:
        ArtifactDamaged: If tensors are missing, left over, or of another shape.
    """
    files, table = TensorFiles(uri), parts(config)
    names = _names_there(files, table)
    left_over = set(files.file_of) - set(names.values())
    known = {"lm_head.weight"} if config.tie_embeddings else set()
    if unknown := sorted(name for name in left_over - known if not IGNORED.search(name)):
        raise ArtifactDamaged("the weights hold more than the model", where=uri, why=", ".join(unknown[:3]))
    stream = files.read(names[piece.name] for pieces in table.values() for piece in pieces)
    for ours, pieces in table.items():
        tensors = {piece.name: _with_rows(next(stream)[1].float(), piece, ours, uri) for piece in pieces}
        yield ours, join(tensors, pieces)


def _names_there(files: TensorFiles, table: dict[str, list[Part]]) -> dict[str, str]:
    """What the file calls each tensor."""
    wanted = [piece.name for pieces in table.values() for piece in pieces]
    short = not any(name.startswith(GPT2_PREFIX) for name in files.file_of)
    return {name: name.removeprefix(GPT2_PREFIX) if short else name for name in wanted}


def _with_rows(tensor: Tensor, piece: Part, ours: str, uri: str) -> Tensor:
    """The tensor, with as many rows as it should have: missing rows of the vocabulary are zeros."""
    rows = tensor.shape[-1 if piece.transposed else 0]
    if rows == piece.rows:
        return tensor
    if rows > piece.rows or not ours.endswith(("embed_tokens.weight", "lm_head.weight")):
        raise ArtifactDamaged(
            "a tensor has another shape than the model's config says",
            where=uri,
            why=f"{piece.name} has {rows:,} rows, not {piece.rows:,}",
        )
    return torch.cat([tensor, tensor.new_zeros(piece.rows - rows, *tensor.shape[1:])])


@torch.no_grad()
def load_weights(model: Transformer, uri: str) -> None:
    """Put the weights of a model of transformers into ours, one tensor after the other."""
    for name, tensor in iter_parameters(uri, model.config):
        target = model.get_parameter(name)
        if target.shape != tensor.shape:
            raise ArtifactDamaged(
                "a tensor has another shape than the model's config says",
                where=uri,
                why=f"it makes {name} {tuple(tensor.shape)}, not {tuple(target.shape)}",
            )
        target.copy_(tensor)


def import_model(uri: str) -> Transformer:
    """A model of transformers as ours, in evaluation mode, float32."""
    model = Transformer(read_model_config(uri))
    load_weights(model, uri)
    return model.eval()
