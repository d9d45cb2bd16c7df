"""A checkpoint of adapters to one of a whole model: the base with the adapters added to its matrices.

What comes out is a checkpoint like any other, but for what only a resumed run needs: sample, evaluate, export and
``train.init`` take it.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rayllm.core import storage
from rayllm.core.artifact import record_files
from rayllm.core.checkpoint import (
    COMMIT,
    PINNED,
    Commit,
    find_checkpoint,
    publish_directory,
    verify_checkpoint,
    write_rank_manifest,
)
from rayllm.core.errors import ConfigError
from rayllm.interchange.adapters import merged_parameters
from rayllm.interchange.base import Base
from rayllm.interchange.weights import write_shards
from rayllm.model.lora.saved import ADAPTERS, NOTE, AdapterNote, read_note
from rayllm.model.saved import read_config


@dataclass(frozen=True)
class Merged:
    """What was written: where, from what, and how much."""

    uri: str
    checkpoint: str
    base: str
    parameters: int
    bytes: int


def merge_checkpoint(uri: str, output: str, *, base: str = "", prefer: Literal["best", "last"] = "best") -> Merged:
    """Write the model that a checkpoint of adapters and its base are together.

    Args:
        uri: A checkpoint of adapters, a ``checkpoints/`` directory, a train artifact or a run.
        output: Directory or URI; must be empty or missing.
        base: Where the base lies now, as in ``train.init``, if no longer where the run found it.
        prefer: Which checkpoint of several.

    Raises:
        ConfigError: If the checkpoint holds no adapters, or the output is not empty.
        ArtifactDamaged: If a file is damaged, or the base is another one.
    """
    found = find_checkpoint(uri, prefer)
    note = adapters_in(found, base)
    commit = verify_checkpoint(found, deep=True, weights_only=True)
    if storage.list_files(output):
        raise ConfigError("the output is not empty", where=output, fix="name a new directory, or remove this one")
    config = read_config(found)
    with tempfile.TemporaryDirectory(prefix="rayllm-merge-") as scratch:
        directory = Path(scratch) / "checkpoint"
        directory.mkdir()
        sizes = write_shards(merged_parameters(config, found, note), directory)
        for name in _shared_files(found):
            (directory / name).write_bytes(storage.read_bytes(storage.join(found, name)))
        names = [path.name for path in directory.iterdir()]
        manifest = write_rank_manifest(str(directory), 0, record_files(str(directory), names))
        sealed = Commit(step=commit.step, attempt=commit.attempt, world_size=1, manifests=[manifest])
        (directory / COMMIT).write_text(sealed.model_dump_json(indent=1))
        publish_directory(directory, output)
    return Merged(output, found, note.base, **sizes)


def adapters_in(checkpoint: str, base: str = "") -> AdapterNote:
    """What a checkpoint of adapters says of its base.

    Args:
        checkpoint: The checkpoint itself.
        base: Where the base lies now, if no longer where the run found it.

    Raises:
        ConfigError: If the checkpoint holds a whole model.
    """
    note = read_note(checkpoint)
    if note is None:
        raise ConfigError(
            "this checkpoint holds a whole model, and no adapters", where=checkpoint, fix="use it as it is"
        )
    return note.model_copy(update={"base": str(Base.parse(base))}) if base else note


def _shared_files(checkpoint: str) -> list[str]:
    """What the merged checkpoint takes over: sizes, tokenizer, template, progress, configs."""
    apart = {ADAPTERS, NOTE, COMMIT, PINNED}
    return [
        name
        for name in storage.list_files(checkpoint)
        if "/" not in name and name not in apart and not name.endswith(".manifest.json")
    ]
