"""Which checkpoint of another run a fork begins with, and what that checkpoint says of its run.

In: ``train.fork``. Out: a checkpoint's place; the config and the stage table that lie in it. Nothing is verified here.
"""

import yaml

from rayllm.core import storage
from rayllm.core.checkpoint import COMMIT, CheckpointRef, Commit, checkpoints_of, is_set_aside, list_checkpoints
from rayllm.core.config import validate_source
from rayllm.core.config_source import Source
from rayllm.core.errors import ConfigError
from rayllm.core.fork_config import ForkConfig
from rayllm.data.mixing.plan import Plan
from rayllm.optim.config import WSDSchedule
from rayllm.optim.schedules import decay_start
from rayllm.pipelines.train import Config


def find_fork(fork: ForkConfig) -> CheckpointRef:
    """The checkpoint that a fork begins with; for step 0 the newest, since each tells what its run is.

    Raises:
        ConfigError: If there is none, or none of that step.
    """
    there = _checkpoints(fork.source)
    if fork.step == "stable":
        latest = stable_steps(there[-1].uri)
        fitting, wanted = [ref for ref in there if ref.step <= latest], f"step {latest} or before"
    elif fork.step in ("last", 0):
        fitting, wanted = there, ""
    else:
        fitting, wanted = [ref for ref in there if ref.step == fork.step], f"step {fork.step}"
    if not fitting:
        raise ConfigError(
            f"the run to fork has no checkpoint of {wanted}",
            where=f"train.fork: {fork.source}",
            why="; ".join([f"it has those of steps {_steps(there)}", *_damaged(fork.source)]),
            fix="name one of these in `train.fork.step`, or train that run with more `train.checkpoint.keep_last`",
        )
    return fitting[-1]


def _checkpoints(source: str) -> list[CheckpointRef]:
    """What a source names, oldest first; one where it is a checkpoint itself."""
    commit = storage.join(source, COMMIT)
    if storage.exists(commit):
        found = Commit.model_validate_json(storage.read_bytes(commit))
        return [CheckpointRef(found.step, found.attempt, source)]
    there = list_checkpoints(checkpoints_of(source))
    if not there:
        raise ConfigError(
            "there is no checkpoint to fork from",
            where=f"train.fork: {source}",
            why="; ".join(_damaged(source)),
            fix="give a checkpoint, the train artifact that holds `checkpoints/`, or its run's directory",
        )
    return there


def _damaged(source: str) -> list[str]:
    """What to say of checkpoints that are not looked at, if there are any."""
    there = list_checkpoints(checkpoints_of(source), also_set_aside=True)
    found = [ref for ref in there if is_set_aside(ref.uri)]
    return [f"set aside as damaged: those of steps {_steps(found)} (see `rayllm checkpoints verify`)"] if found else []


def _steps(refs: list[CheckpointRef]) -> str:
    return ", ".join(str(ref.step) for ref in refs)


def stable_steps(uri: str) -> int:
    """Steps that the run of a checkpoint takes before its learning rate decays.

    Raises:
        ConfigError: If it has another schedule than ``wsd``.
    """
    schedule = read_run(uri).train.schedule
    if not isinstance(schedule, WSDSchedule):
        raise ConfigError(
            "the run to fork has no stable part",
            where=f"train.fork.step: stable, {uri}",
            why=f"its train.schedule.kind is {schedule.kind}, not wsd",
            fix="name a step",
        )
    return decay_start(schedule, read_plan(uri).total_steps)


def read_run(uri: str) -> Config:
    """The config with which a checkpoint's run was trained."""
    where = storage.join(uri, "run.yaml")
    return validate_source(Source(tree=yaml.safe_load(storage.read_text(where))), Config, where)


def read_plan(uri: str) -> Plan:
    """The stage table of a checkpoint's run."""
    return Plan.from_json(storage.read_text(storage.join(uri, "plan.json")))
