"""Before any work on several nodes: can every node read what another one writes?"""

import uuid

from rayllm.core import storage
from rayllm.core.errors import SetupError
from rayllm.core.log import get_logger

logger = get_logger(__name__)


def probe_storage(root: str) -> None:
    """Write a file from here and from every node, and read each of them everywhere.

    Args:
        root: URI of the run's storage.

    Raises:
        SetupError: Naming the node that cannot see the others' files, and the setting to change.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    folder = storage.join(root, f".probe-{uuid.uuid4().hex[:12]}")
    storage.write_text(storage.join(folder, "driver"), "driver")
    try:
        for step in (_write, _read):
            task = ray.remote(num_cpus=0)(step)
            pinned = {
                node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
                for node in nodes
            }
            answers = {node: one.remote(folder, node, list(nodes)) for node, one in pinned.items()}
            for node, answer in answers.items():
                if problem := ray.get(answer):
                    raise SetupError(
                        "the storage is not shared by all nodes",
                        where=f"storage={root}, on node {nodes[node]}",
                        why=problem,
                        fix="set `storage=` to a directory that every node mounts, or to an object store such as s3://…",
                    )
    finally:
        storage.remove(folder)
    logger.info("storage is readable and writable on all %d nodes: %s", len(nodes), root)


def _write(folder: str, node: str, _: list[str]) -> str:
    """Write this node's file, where the driver's is to be seen."""
    if not storage.exists(storage.join(folder, "driver")):
        return "what the driver wrote is not there"
    try:
        storage.write_text(storage.join(folder, node), node)
    except OSError as error:
        return f"it cannot be written: {error}"
    return ""


def _read(folder: str, _: str, nodes: list[str]) -> str:
    """Read the file of every node."""
    missing = [node for node in nodes if not storage.exists(storage.join(folder, node))]
    return f"what {len(missing)} of {len(nodes)} nodes wrote is not there" if missing else ""
