"""A checkpoint to a directory that Hugging Face's transformers loads, with no code of ours.

In: a checkpoint, of any engine and number of ranks (its ``model.safetensors`` is always whole). Out: ``config.json``,
safetensors in shards, the tokenizer, a model card. Rows of the vocabulary that the tokenizer does not use are left out.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayllm.core import storage
from rayllm.core.checkpoint import find_checkpoint, verify_checkpoint
from rayllm.core.errors import ConfigError
from rayllm.interchange.hf_import import CONFIG_JSON
from rayllm.interchange.layouts import model_type, parts, split, to_hf_config
from rayllm.interchange.model_card import model_card
from rayllm.interchange.weights import TensorFiles, cast, write_shards
from rayllm.model.config import ModelConfig
from rayllm.model.lora.saved import refuse_adapters
from rayllm.model.saved import STATE, read_config
from rayllm.tokenizer.chat.render import stop_ids, with_separator
from rayllm.tokenizer.chat.template import read_template, write_template
from rayllm.tokenizer.codec import Codec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Exported:
    """What was written: where, in which layout, and how much."""

    uri: str
    layout: str
    parameters: int
    bytes: int


def export_checkpoint(
    uri: str, output: str, *, dtype: str = "float32", max_shard_bytes: int = 2 << 30, prefer: Any = "best"
) -> Exported:
    """Write a checkpoint as a model of transformers.

    Args:
        uri: A checkpoint, a ``checkpoints/`` directory or a train artifact.
        output: Directory or URI; must be empty or missing. ``config.json`` is written last.
        dtype: ``float32`` (exact), ``bfloat16`` or ``float16``.
        max_shard_bytes: Size of a file of weights, in bytes.
        prefer: Which checkpoint of several: ``best`` or ``last``.

    Raises:
        ConfigError: If the model fits no layout, or the output is not empty.
        ArtifactDamaged: If the checkpoint is damaged.
    """
    found = find_checkpoint(uri, prefer)
    refuse_adapters(found, "a model of transformers")
    verify_checkpoint(found, deep=True, weights_only=True)
    config = read_config(found)
    layout = model_type(config)
    if storage.list_files(output):
        raise ConfigError("the output is not empty", where=output, fix="name a new directory, or remove this one")
    trimmed = config.model_copy(update={"vocab_size": config.real_vocab_size or config.vocab_size})
    with tempfile.TemporaryDirectory(prefix="rayllm-export-") as scratch:
        directory = Path(scratch)
        sizes = write_shards(cast(_their_tensors(found, config, trimmed), DTYPES[dtype]), directory, max_shard_bytes)
        separator = write_tokenizer_files(found, directory, config.max_seq_len)
        state = json.loads(storage.read_bytes(storage.join(found, STATE)))
        (directory / "README.md").write_text(model_card(found, trimmed, state))
        content = to_hf_config(trimmed) | separator | {"torch_dtype": dtype, "dtype": dtype}
        _write_json(directory / CONFIG_JSON, content)
        for path in sorted(directory.iterdir(), key=lambda path: path.name == CONFIG_JSON):
            storage.upload(path, storage.join(output, path.name))
    return Exported(output, layout, **sizes)


def _their_tensors(uri: str, config: ModelConfig, trimmed: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    files, whole = TensorFiles(uri), config.resolved_vocab_size
    table = parts(trimmed)
    for name, tensor in files.read(table):
        is_table = name.endswith(("embed_tokens.weight", "lm_head.weight")) and tensor.shape[0] == whole
        yield from split(tensor[: trimmed.vocab_size] if is_table else tensor, table[name]).items()


def write_tokenizer_files(uri: str, directory: Path, max_seq_len: int) -> dict[str, int]:
    """Write what goes with any model of transformers: the tokenizer, its chat template, and where generation stops.

    Args:
        uri: The checkpoint.
        directory: Where the files go.
        max_seq_len: Tokens that the model can see.

    Returns:
        The ids with which texts begin and end, for ``config.json``.
    """
    codec = Codec.load(uri)
    (directory / "tokenizer.json").write_bytes(storage.read_bytes(storage.join(uri, "tokenizer.json")))
    config = json.loads(storage.read_bytes(storage.join(uri, "tokenizer_config.json")))
    _write_json(directory / "tokenizer_config.json", config | {"model_max_length": max_seq_len})
    separator = {"bos_token_id": codec.separator_id, "eos_token_id": codec.separator_id}
    _write_json(directory / "generation_config.json", separator | _chat(uri, directory, codec))
    return separator


def _chat(uri: str, directory: Path, codec: Codec) -> dict[str, Any]:
    """Write the chat template, if the model has learnt one; returns where generation then stops.

    It writes the separator that conversations begin with: ``apply_chat_template`` adds no token of its own.
    """
    template = read_template(uri)
    if template is None:
        return {}
    write_template(with_separator(template, codec), str(directory))
    return {"eos_token_id": sorted({codec.separator_id, *stop_ids(template, codec)})}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
