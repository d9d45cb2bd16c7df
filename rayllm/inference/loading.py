"""A checkpoint at a URI to a model that can be used, with its tokenizer."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rayllm.core import storage
from rayllm.core.checkpoint import find_checkpoint, verify_checkpoint
from rayllm.core.errors import ArtifactDamaged
from rayllm.interchange.adapters import load_adapted
from rayllm.model.config import ModelConfig
from rayllm.model.lora.saved import read_note
from rayllm.model.saved import CONFIG, STATE, read_config
from rayllm.model.transformer import Transformer
from rayllm.tokenizer.codec import Codec

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Loaded:
    """A model ready to use.

    Attributes:
        model: With the checkpoint's weights, in evaluation mode; of a checkpoint of adapters its base with them.
        codec: The tokenizer that it was trained with.
        state: What ``state.json`` says: step, tokens, validation, and so on.
        uri: The checkpoint itself, where a directory of several was given.
    """

    model: Transformer
    codec: Codec
    state: dict[str, Any]
    uri: str


def load_checkpoint(
    uri: str,
    *,
    prefer: Literal["best", "last"] = "best",
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Loaded:
    """Find, verify and load a checkpoint.

    Args:
        uri: A checkpoint, a ``checkpoints/`` directory, or a train artifact; anywhere that fsspec reads.
        prefer: Which one where there are several.
        device: Where the model goes.
        dtype: What the weights become; by default as saved, float32.

    Raises:
        ConfigError: If there is no checkpoint.
        ArtifactDamaged: If a file is missing or changed, or the files do not fit together.
    """
    found = find_checkpoint(uri, prefer)
    verify_checkpoint(found, deep=True, weights_only=True)
    config = read_config(found)
    codec = Codec.load(found)
    if config.real_vocab_size not in (None, codec.vocab_size):
        raise ArtifactDamaged(
            "the model and the tokenizer of a checkpoint do not fit together",
            where=found,
            why=f"the model was made for {config.real_vocab_size:,} ids, the tokenizer has {codec.vocab_size:,}",
        )
    note = read_note(found)
    model = with_weights(config, found) if note is None else load_adapted(config, found, note)
    model = model.to(device=device, dtype=dtype).eval()
    return Loaded(model, codec, json.loads(storage.read_bytes(storage.join(found, STATE))), found)


def with_weights(config: ModelConfig, uri: str) -> Transformer:
    """A model with a checkpoint's weights; no initial weights are drawn, and a local file is mapped, not copied.

    Raises:
        ArtifactDamaged: If the weights are not those of such a model.
    """
    with torch.device("meta"):
        model = Transformer(config)
    with _local_file(storage.join(uri, WEIGHTS)) as path:
        try:
            weights = load_file(path)
        except (SafetensorError, FileNotFoundError) as error:
            raise ArtifactDamaged(
                "the weights of a checkpoint cannot be read", where=storage.join(uri, WEIGHTS), why=str(error)
            ) from error
    _check_fit(model, weights, storage.join(uri, WEIGHTS))
    model.load_state_dict(weights, assign=True, strict=False)
    model.tie_weights()
    return model


def _check_fit(model: Transformer, weights: dict[str, Tensor], where: str) -> None:
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} does not belong to such a model" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name])}, not {tuple(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ArtifactDamaged(f"the weights do not fit the sizes in {CONFIG}", where=where, why=problems[0] + more)


@contextmanager
def _local_file(uri: str) -> Iterator[Path]:
    """The file itself where it is local, else a copy for as long as it is used."""
    if storage.is_local(uri):
        yield storage.local_path(uri)
        return
    fs, remote = storage.filesystem(uri)
    with tempfile.TemporaryDirectory(prefix="rayllm-") as directory:
        path = Path(directory) / WEIGHTS
        fs.get_file(remote, str(path))
        yield path
