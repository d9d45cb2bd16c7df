"""A checkpoint of adapters to a directory that Hugging Face's ``peft`` loads, with no code of ours.

In: a checkpoint of adapters. Out: ``adapter_config.json`` and ``adapter_model.safetensors`` in the format of ``peft``'s
``LoraModel``, the tokenizer, a model card; and below ``base/`` the base in the layout of transformers, unless it is a
model of transformers already.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from rayllm.core import storage
from rayllm.core.checkpoint import find_checkpoint, verify_checkpoint
from rayllm.core.errors import ConfigError
from rayllm.interchange.adapters import with_adapters
from rayllm.interchange.base import Base
from rayllm.interchange.hf_export import DTYPES, export_checkpoint, write_tokenizer_files
from rayllm.interchange.layouts import model_type
from rayllm.interchange.merge import adapters_in
from rayllm.interchange.model_card import adapter_card
from rayllm.model.config import ModelConfig
from rayllm.model.lora.adapt import adapted_layers
from rayllm.model.lora.config import LoraConfig, adapted_matrices
from rayllm.model.lora.saved import AdapterNote
from rayllm.model.saved import STATE, read_config
from rayllm.model.transformer import Transformer

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
#: Where the base goes, below the output.
BASE = "base"
#: A whole repository of the hub, its newest revision.
HUB_REPOSITORY = re.compile(r"hf://([\w.-]+(?:/[\w.-]+)?)")


@dataclass(frozen=True)
class ExportedAdapters:
    """What was written: where, with which base, and how much."""

    uri: str
    base: str
    parameters: int
    bytes: int


def export_adapters(
    uri: str,
    output: str,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = 2 << 30,
    base: str = "",
    prefer: Literal["best", "last"] = "best",
) -> ExportedAdapters:
    """Write a checkpoint of adapters for ``peft``.

    Args:
        uri: A checkpoint of adapters, a ``checkpoints/`` directory, a train artifact or a run.
        output: Directory or URI; must be empty or missing. ``adapter_config.json`` is written last.
        dtype: ``float32`` (exact), ``bfloat16`` or ``float16``; of the base too.
        max_shard_bytes: Size of a file of the base's weights, in bytes.
        base: Where the base lies now, as in ``train.init``, if no longer where the run found it.
        prefer: Which checkpoint of several.

    Raises:
        ConfigError: If the model fits no layout that adapters can be stored for, the output is not empty, or the base
            is a model of transformers at a place that transformers does not read.
        ArtifactDamaged: If a file is damaged, or the base is another one.
    """
    found = find_checkpoint(uri, prefer)
    note, config = adapters_in(found, base), read_config(found)
    _check_layout(config)
    origin = Base.parse(note.base)
    theirs = _name(origin) if origin.foreign else storage.absolute(storage.join(output, BASE))
    verify_checkpoint(found, deep=True, weights_only=True)
    if storage.list_files(output):
        raise ConfigError("the output is not empty", where=output, fix="name a new directory, or remove this one")
    origin.check(note.sha256)
    if not origin.foreign:
        export_checkpoint(origin.uri, theirs, dtype=dtype, max_shard_bytes=max_shard_bytes)
    tensors = {
        name: tensor.to(DTYPES[dtype]).contiguous()
        for name, tensor in _their_tensors(with_adapters(config, found, note))
    }
    with tempfile.TemporaryDirectory(prefix="rayllm-export-") as scratch:
        directory = Path(scratch)
        save_file(tensors, directory / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        write_tokenizer_files(found, directory, config.max_seq_len)
        state = json.loads(storage.read_bytes(storage.join(found, STATE)))
        (directory / "README.md").write_text(adapter_card(found, theirs, note.lora, state))
        content = json.dumps(adapter_config(note, config, theirs), indent=1) + "\n"
        (directory / ADAPTER_CONFIG).write_text(content)
        for path in sorted(directory.iterdir(), key=lambda path: path.name == ADAPTER_CONFIG):
            storage.upload(path, storage.join(output, path.name))
    sizes = [(tensor.numel(), tensor.nbytes) for tensor in tensors.values()]
    return ExportedAdapters(output, theirs, *(sum(column) for column in zip(*sizes, strict=True)))


def adapter_config(note: AdapterNote, model: ModelConfig, base: str) -> dict[str, Any]:
    """The content of ``adapter_config.json``.

    Args:
        note: Settings of the adapters.
        model: Sizes of the base.
        base: Where transformers finds the base.
    """
    lora = note.lora
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": _target_modules(lora, model),
        "use_rslora": lora.rslora,
        "use_dora": lora.dora,
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
    }


def _target_modules(lora: LoraConfig, model: ModelConfig) -> list[str]:
    """Ends of the names of their modules: short ones, where all layers are adapted alike, else whole ones."""
    whole = [
        f"{name.rpartition('.')[0]}.{matrix}"
        for name, matrices in adapted_matrices(lora, model).items()
        for matrix in matrices
    ]
    short = {name.rpartition(".")[2] for name in whole}
    return sorted(short) if len(whole) == len(short) * model.num_layers else whole


def _their_tensors(module: Transformer) -> Iterator[tuple[str, Tensor]]:
    """The adapters as ``peft`` calls them: those of each matrix apart."""
    for name, layer in adapted_layers(module):
        for matrix, (a, b, lengths) in layer.adapters().items():
            theirs = f"base_model.model.{name.rpartition('.')[0]}.{matrix}"
            yield f"{theirs}.lora_A.weight", a.detach()
            yield f"{theirs}.lora_B.weight", b.detach()
            if lengths is not None:
                yield f"{theirs}.lora_magnitude_vector", lengths.detach()


def _name(origin: Base) -> str:
    """What transformers calls a model of its own: a directory, or a repository of the hub."""
    if storage.is_local(origin.uri):
        return origin.uri
    if found := HUB_REPOSITORY.fullmatch(origin.uri):
        return found[1]
    raise ConfigError(
        "transformers cannot load the base of these adapters from where it lies",
        where=origin.uri,
        why="it reads directories, and repositories as `hf://org/name` names them",
        fix="copy the base to a directory, and name the copy: `--base from_hf:DIRECTORY`",
    )


def _check_layout(config: ModelConfig) -> None:
    """Refuse a layout in which the adapted matrices are not matrices of their own."""
    if model_type(config) == "gpt2":
        raise ConfigError(
            "adapters of this model cannot be stored for peft",
            where="model",
            why="in the layout of GPT-2 queries, keys and values are one matrix, which has one adapter, not three",
            fix="merge them first: `rayllm merge CHECKPOINT OUTPUT`, then `rayllm export OUTPUT DIRECTORY`",
        )
