"""A run that goes on from a checkpoint of another run, with its weights, moments, generators and place in the data.

In: ``train.fork``. Out: the checkpoint to begin from and the stage table up to it, once it is certain that what the
two runs share is the same; what a fork may change is in ``FREE``. The other run is only read. What the fork notes of it
(``fork.json``), and its own checkpoints, hold all that a resume needs: the other run may go once the fork has saved.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rayllm.core import storage
from rayllm.core.checkpoint import COMMIT, verify_checkpoint
from rayllm.core.errors import ConfigError, DataError
from rayllm.core.fork_config import ForkConfig
from rayllm.data.mixing.plan import Plan
from rayllm.data.shards.packed import PackedData
from rayllm.pipelines.train import Config
from rayllm.pipelines.train.fork_origin import Origin, find_or_recall, read_origin
from rayllm.pipelines.train.fork_source import find_fork, read_plan, read_run
from rayllm.pipelines.train.initial import model_differences
from rayllm.train import checkpoint, collective
from rayllm.train.state import RunState

#: File of a checkpoint: what the run's data are.
DATA = "data.json"
#: Settings of ``train:`` in which a fork may differ. Of the optimiser its kind must stay; of lengths and batches, the
#: plan decides what fits.
FREE = {
    *("max_steps", "tokens", "tokens_per_param", "seq_len", "global_batch_tokens"),
    *("optimizer", "schedule", "guards", "precision", "fork"),
}


@dataclass(frozen=True)
class Forked:
    """What a session needs of its fork.

    Attributes:
        origin: Where it begins.
        table: The stage table up to there, and maybe beyond.
        forgets: Fields of the state that belong to settings in which the two differ.
        reseeds: Whether this one has another seed, and so its own generators.
    """

    origin: Origin
    table: Plan
    forgets: tuple[str, ...] = ()
    reseeds: bool = False

    def adopt(self, state: RunState) -> RunState:
        """The state of the other run, without what this one does not take over."""
        return dataclasses.replace(state, **{name: {} for name in self.forgets})


def check_fork(config: Config) -> None:
    """Refuse a fork of what is not there, or of a run that is another one in more than a fork may change.

    One that has begun, and whose beginning is gone, was checked then.

    Raises:
        ConfigError: Naming each setting that differs, with both values.
        ArtifactDamaged: If files are missing there.
    """
    found = find_or_recall(config)
    if isinstance(found, Origin):
        return
    verify_checkpoint(found.uri, deep=False)
    _check_settings(config, found.uri)


def check_forced_fork(config: Config) -> None:
    """Refuse to make a fork again once its beginning is gone.

    Raises:
        ConfigError: If it is.
    """
    assert config.train.fork is not None
    try:
        find_fork(config.train.fork)
    except ConfigError as error:
        raise ConfigError(
            "the checkpoint that this fork began with is gone: it cannot begin again",
            where=error.where,
            why=f"{error.what}; {error.why}".removesuffix("; "),
            fix="leave out --force, which goes on with what there is, or bring that checkpoint back",
        ) from error


def fork_fingerprint(config: Config) -> str:
    """The hash of the checkpoint that the run begins with, or has begun with."""
    assert config.train.fork is not None
    if config.train.fork.step == 0:
        return "the beginning"
    found = find_or_recall(config)
    return found.sha256 if isinstance(found, Origin) else _sha256(found.uri)


def load_fork(config: Config, packed: PackedData, chosen: str) -> Forked | None:
    """Find and check what a run goes on from; all ranks call it together.

    Args:
        config: The run.
        packed: Its data.
        chosen: Its own newest checkpoint, or an empty string.

    Returns:
        None where the run is no fork, or one of another run's beginning.

    Raises:
        ConfigError, DataError: If a fork may not differ as this one does.
        ArtifactDamaged: If the other run's checkpoint is not whole.
    """
    fork = config.train.fork
    if fork is None:
        return None
    if chosen:
        return _resumed(chosen)
    return collective.together(
        lambda: _begun(fork, config, packed) if collective.rank() == 0 else None,
        what="finding the run to fork",
        where=fork.source,
    )[0]


def _begun(fork: ForkConfig, config: Config, packed: PackedData) -> Forked | None:
    uri = find_fork(fork).uri
    commit = verify_checkpoint(uri, deep=True)
    there = _check_settings(config, uri)
    found = json.loads(storage.read_bytes(storage.join(uri, DATA)))
    if found != data_identity(packed):
        raise DataError(
            "the run to fork was trained on other data",
            where=f"train.fork: {uri}",
            why=f"{_short(found)} there, {_short(data_identity(packed))} here",
            fix="give this run the sources, the tokenizer and the packing of that run",
        )
    if fork.step == 0:
        return None
    forgets = [] if there.train.guards.early_stopping == config.train.guards.early_stopping else ["early_stopping"]
    forgets += [] if there.mixture == config.mixture else ["mixture"]
    origin = Origin(run=there.name, checkpoint=storage.absolute(uri), step=commit.step, sha256=_sha256(uri))
    return Forked(origin, read_plan(uri), tuple(forgets), reseeds=there.seed != config.seed)


def _resumed(chosen: str) -> Forked | None:
    origin = read_origin(chosen)
    return None if origin is None else Forked(origin, read_plan(chosen))


def data_identity(packed: PackedData) -> dict[str, str]:
    """What the training data of a run are, for ``data.json``: the tokenizer's hash, and one of all shards."""
    return {"tokenizer": packed.tokenizer_sha256, "train": packed.index.digest("train")}


def _short(identity: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {sha256[:12]}" for name, sha256 in identity.items())


def _check_settings(config: Config, uri: str) -> Config:
    """Compare a run with the one that it forks, whose config is returned.

    Raises:
        ConfigError: Naming each setting that differs and may not, with both values.
    """
    there = read_run(uri)
    differing = [f"model.{text}" for text in model_differences(config.model, there.model)]
    differing += _differences(_fixed(config), _fixed(there), "train.")
    precision = checkpoint.read_state(uri).precision
    if config.train.precision not in ("auto", precision):
        differing.append(f"train.precision: {config.train.precision} here, {precision} there")
    if differing:
        raise ConfigError(
            "a fork is another run than the one it forks in what must stay the same",
            where=f"train.fork: {uri}",
            why="; ".join(differing),
            fix="take over these settings; a fork may change budget, learning rate, schedule, weights and curriculum. "
            "For other changes begin with the weights alone: train.init: from_checkpoint:URI",
        )
    return there


def _fixed(config: Config) -> dict[str, Any]:
    """What a fork may not change, besides the model."""
    settings = {name: value for name, value in config.train.identity().items() if name not in FREE}
    return settings | {"optimizer": {"kind": config.train.optimizer.kind}}


def _differences(here: Mapping[str, Any], there: Mapping[str, Any], prefix: str) -> list[str]:
    found = []
    for name in sorted(here.keys() | there.keys()):
        mine, other = here.get(name), there.get(name)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            found += _differences(mine, other, f"{prefix}{name}.")
        elif mine != other:
            found.append(f"{prefix}{name}: {mine} here, {other} there")
    return found


def _sha256(uri: str) -> str:
    return hashlib.sha256(storage.read_bytes(storage.join(uri, COMMIT))).hexdigest()
