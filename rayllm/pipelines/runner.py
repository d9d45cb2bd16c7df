"""Run stages of a run file in order, each with its parents' artifacts; what exists is skipped."""

import time
from collections.abc import Mapping, Sequence

from rayllm.core import storage
from rayllm.core.artifact import Artifact
from rayllm.core.config import to_yaml
from rayllm.core.errors import ConfigError
from rayllm.core.log import get_logger
from rayllm.core.stage import Task, check_writable, full_disk_named, is_made, run_task
from rayllm.pipelines import STAGES
from rayllm.pipelines.nodes import expected_nodes
from rayllm.pipelines.ray_runtime import ensure_ray
from rayllm.pipelines.run_config import (
    RunConfig,
    check_stage,
    has_stage,
    stage_config,
    stage_fingerprint,
    stage_goes_on,
    stage_module,
)
from rayllm.pipelines.storage_probe import probe_storage

#: The page of a run: in the report's artifact, and once more where a person looks for it, beside the artifacts.
REPORT = "report.html"

logger = get_logger(__name__)


def verbs_of_run() -> list[str]:
    """The stages of ``rayllm run``, in order."""
    return [verb for verb, stage in STAGES.items() if stage.in_run]


def verbs_for(verb: str) -> list[str]:
    """A stage and all that it stands on, in the order of the table."""
    needed = {verb}
    for name in reversed(STAGES):
        if name in needed:
            needed |= set(STAGES[name].parents)
    return [name for name in STAGES if name in needed]


def run_stages(config: RunConfig, verbs: Sequence[str], *, force: Sequence[str] = ()) -> dict[str, Artifact]:
    """Run stages in order.

    Args:
        config: The whole run.
        verbs: Stages to run, parents before children.
        force: Stages to make again even if they exist.

    Returns:
        The artifact of each stage that the run has.

    Raises:
        ConfigError: If a stage's own check refuses the config, or the last stage is none of this run; nothing has
            started then.
        SetupError: If the storage cannot be written, or the machines are too small for a stage that is to run; nothing
            has been made then.
    """
    if verbs and not has_stage(verbs[-1], config):
        raise ConfigError(
            f"this run has no stage `{verbs[-1]}`",
            why=f"it is for `{stage_module(STAGES[verbs[-1]]).WANTED_FOR}`",
            fix="run another stage",
        )
    verbs = [verb for verb in verbs if has_stage(verb, config)]
    for verb in verbs:
        check_stage(STAGES[verb], config, force=verb in force)
    if config.ray.address != "local":
        ensure_ray(config.ray)
        probe_storage(storage.absolute(config.storage))
    artifacts: dict[str, Artifact] = {}
    seen = False
    for number, verb in enumerate(verbs):
        task, root = stage_task(config, verb, artifacts), artifact_root(config, verb)
        if not seen and (verb in force or not is_made(task, root)):
            check_nodes(config, verbs[number:])
            seen = True
        artifacts[verb] = _run(task, root, force=verb in force)
    _keep(config, "run.yaml", to_yaml(config).encode())
    if "report" in artifacts:
        _keep(config, REPORT, storage.read_bytes(artifacts["report"].file(REPORT)))
    return artifacts


def check_nodes(config: RunConfig, verbs: Sequence[str]) -> None:
    """Ask each stage whether the cluster, or this machine, is large enough for it: before the first one runs.

    Raises:
        SetupError: If it is not.
    """
    nodes = expected_nodes(config.ray)
    for verb in verbs:
        module = stage_module(STAGES[verb])
        if nodes is not None and hasattr(module, "check_nodes"):
            module.check_nodes(stage_config(verb, config), nodes)


def stage_task(config: RunConfig, verb: str, artifacts: Mapping[str, Artifact]) -> Task:
    """A stage bound to its part of a run's config and to the artifacts of its parents."""
    stage = STAGES[verb]
    return Task(
        verb=verb,
        run=stage_module(stage).run,
        config=stage_config(verb, config),
        inputs={parent: artifacts[parent] for parent in stage.parents if has_stage(parent, config)},
        seen=stage_fingerprint(stage, config),
        version=stage_module(stage).VERSION,
        in_place=stage.in_place,
        goes_on=stage_goes_on(stage, config),
    )


def _keep(config: RunConfig, name: str, data: bytes) -> None:
    """Write a file beside the run's artifacts; it stays untouched where it is the same."""
    home = storage.join(storage.absolute(config.storage), config.name)
    where = storage.join(home, name)
    if not storage.exists(where) or storage.read_bytes(where) != data:
        check_writable(home)
        with full_disk_named(home):
            storage.write_bytes(where, data)


def artifact_root(config: RunConfig, verb: str) -> str:
    """Where a stage's artifacts go: data is shared by all runs of a storage, the rest is the run's own."""
    root = storage.absolute(config.storage)
    return storage.join(root, "data" if STAGES[verb].shared else config.name)


def _run(task: Task, root: str, *, force: bool) -> Artifact:
    start = time.monotonic()
    logger.info("%-13s ...", task.verb)
    artifact, found = run_task(task, root, force=force)
    how = "there already" if found else f"done in {time.monotonic() - start:.1f} s"
    logger.info("%-13s %s: %s", task.verb, how, artifact.uri)
    return artifact
