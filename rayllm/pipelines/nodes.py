"""The nodes of the cluster: which there are, which can be reached, how many workers they have room for."""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from rayllm.core.log import get_logger
from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.ray_runtime import has_gpu

logger = get_logger(__name__)
#: Seconds that a node may take to accept a connection before it counts as lost.
KNOCK_S = 2.0


@dataclass(frozen=True)
class Node:
    """One machine of the cluster.

    Attributes:
        id: Ray's name for it, anew at each start of Ray there.
        host: Address or name.
        port: Where its Ray listens; 0 if unknown.
        cpus: CPUs that Ray may give away, used or not.
        gpus: GPUs likewise.
        leaving: Whether it is about to be taken away; nothing new starts there.
    """

    id: str
    host: str
    port: int
    cpus: float
    gpus: float
    leaving: bool = False

    def room(self, cpus: float, gpus: int) -> int:
        """How many workers fit, with so much for each."""
        if self.leaving:
            return 0
        by_cpus = int(self.cpus / cpus + 1e-6)
        return min(by_cpus, int(self.gpus / gpus)) if gpus else by_cpus


def room(nodes: Iterable[Node], cpus: float, gpus: int) -> int:
    """How many workers fit on all nodes together; a worker is never spread over two."""
    return sum(node.room(cpus, gpus) for node in nodes)


def live_nodes() -> list[Node]:
    """The nodes that Ray takes for alive."""
    import ray
    from ray._private.state import state

    leaving = state.get_draining_nodes()
    return [_node(found, found["NodeID"] in leaving) for found in ray.nodes() if found["Alive"]]


def _node(found: dict[str, Any], leaving: bool) -> Node:
    resources = found["Resources"]
    return Node(
        id=found["NodeID"],
        host=found["NodeManagerAddress"],
        port=found["NodeManagerPort"],
        cpus=resources.get("CPU", 0.0),
        gpus=resources.get("GPU", 0.0),
        leaving=leaving,
    )


class NodeWatch(threading.Thread):
    """Knocks at the head and looks at the nodes every few seconds, in a thread of its own: it may have to wait.

    Attributes:
        nodes: What the last look saw; nothing before the first.
    """

    def __init__(self, every_s: float) -> None:
        super().__init__(name="nodes", daemon=True)
        self.nodes: list[Node] = []
        self._every_s, self._closed = every_s, threading.Event()
        self._head = _head()
        self._heard = time.monotonic()
        self.start()

    @property
    def silent_s(self) -> float:
        """How long the head has not answered; it grows during a look too, for that may never end."""
        return time.monotonic() - self._heard

    def run(self) -> None:
        """Look; the thread's own main function. A look that fails is one without an answer: the next may have one."""
        from ray.exceptions import RaySystemError

        while not self._closed.wait(self._every_s):
            if not _answers(self._head):
                continue
            try:
                self.nodes = live_nodes()
            except RaySystemError as error:  # it could not connect; once connected Ray itself asks again
                logger.warning("the nodes could not be looked at: %s", error)
            else:
                self._heard = time.monotonic()

    def close(self) -> None:
        """Look no more, as far as that can be waited for."""
        self._closed.set()
        self.join(self._every_s)


def _head() -> Node:
    import ray

    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    return Node("", host, int(port), 0.0, 0.0)


def reachable(nodes: list[Node]) -> list[Node]:
    """Those whose Ray accepts a connection now. Ray itself takes a lost node for alive for half a minute and longer."""
    with ThreadPoolExecutor(32) as pool:
        return [node for node, answers in zip(nodes, pool.map(_answers, nodes), strict=True) if answers]


def _answers(node: Node) -> bool:
    try:
        socket.create_connection((node.host, node.port), KNOCK_S).close()
    except OSError:
        return False
    return True


def unused(nodes: Iterable[Node]) -> list[Node]:
    """The same nodes, each with the CPUs and GPUs that nobody uses now."""
    from ray._private.state import state

    free = state.available_resources_per_node()
    left = ((node, free.get(node.id, {})) for node in nodes)  # Ray leaves out what is used up
    return [replace(node, cpus=each.get("CPU", 0.0), gpus=each.get("GPU", 0.0)) for node, each in left]


def expected_nodes(config: RayConfig) -> list[Node] | None:
    """The nodes that a run will have, before Ray is started for it.

    Returns:
        None where only Ray can tell: it counts the GPUs of this machine itself.
    """
    ray = sys.modules.get("ray")  # not imported here: it reads its environment when it is
    if ray is not None and ray.is_initialized():
        return live_nodes()
    if has_gpu():
        return None
    return [Node("", "this machine", 0, float(config.num_cpus or os.cpu_count() or 1), 0.0)]
