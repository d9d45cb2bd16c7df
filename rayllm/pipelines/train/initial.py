"""Weights that a run begins with, where they are not drawn: a model of transformers, or a checkpoint of another run.

In: ``train.init``. Out: the module with those weights, once it is certain that the model is the one in the config and
the tokenizer the one that the data was packed with.
"""

import hashlib
import json
from functools import lru_cache

import torch

from rayllm.core import storage
from rayllm.core.artifact import sha256_file
from rayllm.core.checkpoint import COMMIT
from rayllm.core.errors import ConfigError
from rayllm.core.log import get_logger
from rayllm.corpus.documents import FileRef
from rayllm.corpus.files.paths import find_tree
from rayllm.interchange.base import Base
from rayllm.interchange.hf_import import CONFIG_JSON
from rayllm.model.config import ModelConfig
from rayllm.model.lora.saved import AdapterNote, read_note
from rayllm.model.transformer import Transformer
from rayllm.tokenizer.encoders.probe import told_apart
from rayllm.tokenizer.freeze import TOKENIZER_JSON, check_sha256, parse_tokenizer, read_frozen
from rayllm.train.config import TrainConfig

logger = get_logger(__name__)

#: Settings in which the run may differ from the model that it begins with.
FREE = {"vocab_size", "vocab_multiple", "real_vocab_size", "max_seq_len", "init_scale", "init_std", "exportable"}


def check_initial(init: str, model: ModelConfig) -> None:
    """Refuse a run whose model is not the one that it should begin with.

    Args:
        init: ``from_hf:URI`` or ``from_checkpoint:URI``.
        model: The run's ``model:``.

    Raises:
        ConfigError: Naming each setting that differs, with both values.
    """
    differing = model_differences(model, Base.parse(init).config())
    if differing:
        raise ConfigError(
            "the model to begin with is another one than the config's",
            where=f"model, train.init: {init}",
            why="; ".join(differing),
            fix="take over its settings (`rayllm import URI` prints them), or begin with another model",
        )


def model_differences(here: ModelConfig, there: ModelConfig) -> list[str]:
    """Settings in which a model is another one than the one whose weights it should take, with both values."""
    mine, other = (model.model_dump(exclude=FREE | {"loss_chunk_tokens"}) for model in (here, there))
    mine["head_dim"], other["head_dim"] = here.resolved_head_dim, there.resolved_head_dim
    if here.positions.kind == "learned":
        mine["max_seq_len"], other["max_seq_len"] = here.max_seq_len, there.max_seq_len
    return [f"{name}: {mine[name]} here, {other[name]} there" for name in mine if mine[name] != other[name]]


def load_initial(init: str, module: Transformer, packed_uri: str) -> None:
    """Put the weights into a new module.

    Raises:
        ConfigError: If the model there is another one, or has fewer ids than the tokenizer, or another tokenizer.
        ArtifactDamaged: If its files are damaged, or its tokenizer is not that of the packed data.
    """
    check_initial(init, module.config)
    base = Base.parse(init)
    needed, rows = module.config.real_vocab_size or 0, base.config().resolved_vocab_size
    if rows < needed or rows > module.config.resolved_vocab_size:
        raise ConfigError(
            "the model to begin with has another vocabulary than the data",
            where=f"train.init: {init}",
            why=f"it has {rows:,} ids, the tokenizer of the packed data {needed:,}",
            fix="pack the data with that model's tokenizer (fit_tokenizer: adopt), or set model.vocab_size to its rows",
        )
    if base.foreign:
        _check_foreign_tokenizer(init, base.uri, packed_uri)
    else:
        check_sha256(read_frozen(base.uri).sha256, read_frozen(packed_uri).sha256, where=base.uri)
    with torch.no_grad():
        for name, tensor in base.parameters(module.config):
            module.get_parameter(name).copy_(tensor)


def _check_foreign_tokenizer(init: str, uri: str, packed_uri: str) -> None:
    """See that the data has the ids of a model of transformers, by the ``tokenizer.json`` beside it.

    Raises:
        ConfigError: If that is another tokenizer, however it is written.
        ArtifactDamaged: If it cannot be read.
    """
    file = storage.join(uri, TOKENIZER_JSON)
    if not storage.exists(file):
        logger.warning(
            "%s: no %s lies beside the model, so nobody knows whether its ids are those of the packed data",
            f"train.init: {init}",
            TOKENIZER_JSON,
        )
        return
    theirs, ours = storage.read_bytes(file), read_frozen(packed_uri)
    if hashlib.sha256(theirs).hexdigest() == ours.sha256:
        return
    if difference := told_apart(ours.tokenizer, parse_tokenizer(theirs, file)):
        raise ConfigError(
            "the model to begin with has another tokenizer than the packed data",
            where=f"train.init: {init}",
            why=difference,
            fix=f"pack the data with the model's: `fit_tokenizer: {{kind: adopt, from_file: {file}}}`",
        )


def adapters_of(config: TrainConfig, resumed_from: str) -> AdapterNote | None:
    """What the checkpoints of a run say of its adapters; None for a run that trains all weights.

    Args:
        config: Of the run.
        resumed_from: URI of the checkpoint that it goes on from, which knows its base; else empty.

    Raises:
        ArtifactDamaged: If the base is no longer the one that the adapters were trained on.
    """
    if config.lora is None:
        return None
    note = read_note(resumed_from) if resumed_from else None
    if note is None:
        assert config.init is not None, "adapters have a base"
        base = Base.parse(config.init)
        return AdapterNote(lora=config.lora, base=str(base), sha256=base.sha256())
    Base.parse(note.base).check(note.sha256)
    return note


def initial_fingerprint(init: str) -> str:
    """What is there now, so that other weights at the same place make another run.

    All bytes of local weights are read, once in a process; of remote ones, what their storage tells of them counts.
    """
    base = Base.parse(init)
    if not base.foreign:
        seen = storage.read_bytes(storage.join(base.uri, COMMIT))
    else:
        files = find_tree(base.uri, "train.init")
        marks = {name: _mark(file) for file, name in files if name.endswith(".safetensors")}
        seen = storage.read_bytes(storage.join(base.uri, CONFIG_JSON)) + json.dumps(marks).encode()
    return hashlib.sha256(seen).hexdigest()


def _mark(file: FileRef) -> str:
    """What changes with a file's contents: its storage's own mark (an ETag, a hash, a time), else its SHA-256."""
    if file.version or not storage.is_local(file.uri):
        return file.version or sha256_file(file.uri)
    seen = storage.local_path(file.uri).stat()
    return _local_sha256(file.uri, seen.st_size, seen.st_mtime_ns)


@lru_cache(maxsize=1024)
def _local_sha256(path: str, _size: int, _mtime_ns: int) -> str:
    """The hash of a file as it is now; the trials of a sweep ask for the same ones."""
    return sha256_file(path)
