"""Snapshots to files and files to engine state: slices, so that any number of ranks can read what any other wrote.

Out: one rank's part of a checkpoint in a staging directory; rank 0 adds what is not sharded. In: a checkpoint's URI.
``state/rank-00000.safetensors`` holds the rank's slices as flat float32 tensors and its random generators;
``state/rank-00000.json`` is their index: parameter, kind, offset, length. To load, a rank asks its engine for the
slices it holds now, and fills each from whichever files overlap it. Nothing is gathered, nothing is pickled.
"""

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from rayllm.core import storage
from rayllm.core.artifact import FileRecord
from rayllm.core.checkpoint import COMMIT, CheckpointRef, Commit, newest_valid, write_rank_manifest
from rayllm.core.errors import ArtifactDamaged
from rayllm.core.faults import fault
from rayllm.core.hashed_files import HashedFiles
from rayllm.train import collective
from rayllm.train.engine import Engine, Slice
from rayllm.train.snapshot import Snapshot
from rayllm.train.state import RunState, set_rng_state
from rayllm.train.tensor_file import safetensors_parts

STATE = "state.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Attachments:
    """What makes a checkpoint usable by itself.

    Attributes:
        files: Name → bytes: model config, tokenizer, run config.
        weights: Name of the file with the trained parameters.
        derived: More such files, from the state that is saved with them: what changes while a run trains.
    """

    files: Mapping[str, bytes]
    weights: str = WEIGHTS
    derived: Callable[[Mapping[str, Any]], Mapping[str, bytes]] = lambda _: {}


def write_snapshot(snapshot: Snapshot, attachments: Attachments, staging: Path) -> FileRecord:
    """Write this rank's part of a checkpoint to its staging directory, its manifest last.

    Args:
        snapshot: What to write.
        attachments: What rank 0 adds.
        staging: Empty local directory of this rank.

    Returns:
        The record of the manifest, for the commit.

    Raises:
        OSError: If it cannot be written (a full disk, say).
    """
    files = HashedFiles(staging)
    fault("save.write", snapshot.step, snapshot.attempt)
    _write_slices(snapshot, files)
    fault("save.slices", snapshot.step, snapshot.attempt)
    if snapshot.rank == 0:
        _write_shared(snapshot, attachments, files)
    manifest = write_rank_manifest(str(staging), snapshot.rank, files.records)
    fault("save.staged", snapshot.step, snapshot.attempt)
    return manifest


def _write_slices(snapshot: Snapshot, files: HashedFiles) -> None:
    name = f"rank-{snapshot.rank:05d}"
    tensors = {f"{item.param}|{item.kind}|{item.offset}": item.tensor for item in snapshot.slices}
    files.write(f"state/{name}.safetensors", safetensors_parts(tensors | dict(snapshot.rng)))
    index = [[item.param, item.kind, item.offset, item.tensor.numel()] for item in snapshot.slices]
    text = json.dumps({"rank": snapshot.rank, "world_size": snapshot.world_size, "slices": index})
    files.write(f"state/{name}.json", [text.encode()])


def _write_shared(snapshot: Snapshot, attachments: Attachments, files: HashedFiles) -> None:
    files.write(attachments.weights, safetensors_parts(snapshot.weights))
    fault("save.weights", snapshot.step, snapshot.attempt)
    files.write(STATE, [json.dumps(snapshot.state, indent=1).encode()])
    for name, data in {**attachments.files, **attachments.derived(snapshot.state)}.items():
        files.write(name, [data])


def choose(checkpoints: str, beat: Callable[[], object] = lambda: None) -> tuple[str, list[str]]:
    """The newest checkpoint that is whole, chosen by rank 0 for all, which sets newer ones aside; all ranks call it.

    Args:
        checkpoints: URI of a run's ``checkpoints/``.
        beat: Called on every rank again and again while the first one gets on with reading.

    Returns:
        Its URI, or an empty string where there is none, and one line for each rejected newer one.
    """

    def find(got_on: Callable[[], object]) -> tuple[CheckpointRef | None, list[str]]:
        fault("choose.verify")
        return newest_valid(checkpoints, setting_aside=True, got_on=got_on)

    ref, rejected = collective.led(find, beat)
    return (ref.uri if ref else ""), rejected


def read_state(uri: str) -> RunState:
    """The progress that a checkpoint holds; what an older version did not know yet is as in a new run.

    Raises:
        ArtifactDamaged: Naming what this version does not know.
    """
    where = storage.join(uri, STATE)
    values = json.loads(storage.read_bytes(where))
    if unknown := sorted(values.keys() - RunState().state_dict().keys()):
        raise ArtifactDamaged(
            "the progress in a checkpoint cannot be read",
            where=where,
            why=f"{', '.join(unknown)} is not known here",
            fix="it may be from another version of rayllm; use the one that its manifest names",
        )
    return RunState(**values)


def restore(engine: Engine, state: RunState, uri: str) -> None:
    """Fill an engine and a run's state from a verified checkpoint, whatever wrote it.

    Raises:
        ArtifactDamaged: If it does not hold all that the engine needs.
    """
    state.load_state_dict(read_state(uri).state_dict())
    with tempfile.TemporaryDirectory() as scratch:
        files = StateFiles(uri, Path(scratch))
        with torch.no_grad():
            for item in engine.slices():
                files.fill(item)
        if state.optimizer_steps:
            _check_moments(engine, uri)
        engine.restored(state.optimizer_steps)
        engine.scaler.load_state_dict(state.loss_scale)
        if files.world_size == engine.world_size:
            set_rng_state(files.rng(engine.rank))
    collective.barrier()


def _check_moments(engine: Engine, uri: str) -> None:
    """See that the optimiser remembers something of its steps: for a long time no loss tells that it does not.

    Of one parameter all may be zero, as of LoRA's first matrix after the first step.
    """
    here: dict[str, bool] = {}
    for item in engine.slices():
        here[item.kind] = here.get(item.kind, False) or bool(item.tensor.any())
    of_ranks = collective.gather(here)
    for kind in sorted(set().union(*of_ranks)):
        if not any(of_rank.get(kind) for of_rank in of_ranks):
            raise ArtifactDamaged(
                "the optimiser's state was not saved, or not restored, as it was",
                where=uri,
                why=f"{kind} is zero everywhere, after steps that changed the weights",
                fix="remove the checkpoint, so that the run goes on from an older one",
            )


class StateFiles:
    """The slices of a checkpoint, found by parameter and kind."""

    def __init__(self, uri: str, scratch: Path) -> None:
        self._uri, self._scratch = uri, scratch
        self._open: dict[int, safe_open] = {}
        self._pieces: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)
        commit = Commit.model_validate_json(storage.read_bytes(storage.join(uri, COMMIT)))
        self.world_size = commit.world_size
        for rank in range(commit.world_size):
            index = json.loads(storage.read_bytes(storage.join(uri, "state", f"rank-{rank:05d}.json")))
            for param, kind, offset, length in index["slices"]:
                self._pieces[param, kind].append((offset, length, rank))

    def fill(self, item: Slice) -> None:
        """Write the saved values of a slice into it.

        Raises:
            ArtifactDamaged: If the checkpoint does not hold all of them.
        """
        start, stop = item.offset, item.offset + item.tensor.numel()
        filled = 0
        for offset, length, rank in self._pieces.get((item.param, item.kind), []):
            low, high = max(start, offset), min(stop, offset + length)
            if low < high:
                key = f"{item.param}|{item.kind}|{offset}"
                values = self._file(rank).get_slice(key)[low - offset : high - offset]
                item.tensor[low - start : high - start].copy_(values)
                filled += high - low
        if filled != stop - start:
            raise ArtifactDamaged(
                "a checkpoint does not fit this model",
                where=self._uri,
                why=f"{item.kind} of {item.param} has {filled} of the {stop - start} elements needed",
            )

    def rng(self, rank: int) -> dict[str, Tensor]:
        """A rank's random generators."""
        file = self._file(rank)
        return {key: file.get_tensor(key) for key in file.keys() if key.startswith("rng.")}  # noqa: SIM118

    def _file(self, rank: int) -> safe_open:
        if rank not in self._open:
            name = f"rank-{rank:05d}.safetensors"
            uri = storage.join(self._uri, "state", name)
            if storage.is_local(uri):
                path = storage.local_path(uri)
            else:
                path = self._scratch / name
                path.write_bytes(storage.read_bytes(uri))
            self._open[rank] = safe_open(path, framework="pt")
        return self._open[rank]
