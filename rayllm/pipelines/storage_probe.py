"""Before any work on several nodes: can every node read what another one writes?"""

import time
import uuid
from collections.abc import Callable
from typing import Any

from rayllm.core import storage
from rayllm.core.errors import RayllmError, SetupError
from rayllm.core.log import get_logger

logger = get_logger(__name__)

#: A node whose disk hangs is told after so long; starting its first worker process is in it.
TIMEOUT_S = 120.0


def probe_storage(root: str) -> None:
    """Write a file from here and from every node, and read each of them everywhere.

    Args:
        root: URI of the run's storage.

    Raises:
        SetupError: Naming the node that cannot use the storage or see the others' files, and the setting to change.
    """
    import ray

    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    folder = storage.join(root, f".probe-{uuid.uuid4().hex[:12]}")
    storage.write_text(storage.join(folder, "driver"), "driver")
    try:
        for step in (_write, _read):
            for node, problem in _on_every_node(step, folder, list(nodes)).items():
                if problem:
                    raise SetupError(
                        "the storage is not shared by all nodes",
                        where=f"storage={root}, on node {nodes[node]}",
                        why=problem,
                        fix="set `storage=` to a directory that every node mounts, or to an object store such as "
                        "s3://… whose package and credentials every node has",
                    )
    finally:
        storage.remove(folder)
    logger.info("storage is readable and writable on all %d nodes: %s", len(nodes), root)


def _on_every_node(step: Callable[[str, str, list[str]], str], folder: str, nodes: list[str]) -> dict[str, str]:
    """Run a step on all nodes at once; what is wrong on each, an empty string where all is well."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(step)
    answers = {
        node: task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            folder, node, nodes
        )
        for node in nodes
    }
    deadline = time.monotonic() + TIMEOUT_S
    return {node: _answer(answer, deadline - time.monotonic()) for node, answer in answers.items()}


def _answer(answer: Any, timeout_s: float) -> str:
    """What a node has to say; an error there, whatever it is, is that node's problem with the storage."""
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    try:
        return ray.get(answer, timeout=max(0.0, timeout_s))
    except GetTimeoutError:
        return f"no answer after {TIMEOUT_S:g} s"
    except RayTaskError as error:
        return _in_words(error.cause)
    except RayError as error:
        return _in_words(error)


def _in_words(error: BaseException) -> str:
    """An error on one line: what and why of ours, class and message of others."""
    if isinstance(error, RayllmError):
        return ": ".join(filter(None, (error.what, error.why)))
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


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
