"""Ray clusters of several nodes on this machine, whose nodes can be lost and come again.

``LocalNodes`` are processes beside each other; ``NetworkHosts`` have a network of their own each, joined by a bridge,
as machines have.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import pytest
from own_ray import BIN, OwnRay, own_ray


class Nodes(Protocol):
    """A cluster of a head and named nodes, one CPU each, and the commands that run on its head.

    Attributes:
        address: Of the head.
        ray: Starts commands on the head.
    """

    address: str
    ray: OwnRay

    def add(self, name: str) -> None:
        """Start a node."""
        ...

    def lose(self, name: str) -> None:
        """Kill all processes of a node at once."""
        ...


class LocalNodes:
    """Nodes of Ray's own test cluster."""

    def __init__(self, ray: OwnRay) -> None:
        from ray.cluster_utils import Cluster

        self.ray = ray
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "include_dashboard": False, "temp_dir": str(ray.home / "r" / "ray")},
        )
        self._nodes: dict[str, Any] = {}
        self.address = str(self._cluster.address)

    def add(self, name: str) -> None:
        """Start a node."""
        self._nodes[name] = self._cluster.add_node(num_cpus=1, wait=False)

    def lose(self, name: str) -> None:
        """Kill all processes of a node at once."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)

    def drain(self, name: str, seconds: int) -> None:
        """Tell Ray that a node will be taken away after so many seconds, as a provider of spot machines does."""
        node = self._nodes[name]
        notice = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot", f"--node-id={node.node_id}"]
        command = [str(BIN / "ray"), "drain-node", f"--address={self.address}", *notice]
        done = subprocess.run(
            [*command, f"--deadline-remaining-seconds={seconds}"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@contextlib.contextmanager
def local_nodes(patch: pytest.MonkeyPatch, **environment: str) -> Iterator[LocalNodes]:
    """Nodes beside each other; what they start carries the mark of ``OwnRay``."""
    with own_ray(RAY_AUTH_MODE="disabled", **environment) as ray:
        for name, value in ray.environment.items():
            patch.setenv(name, value)
        nodes = LocalNodes(ray)
        try:
            yield nodes
        finally:
            nodes.close()


class NetworkHosts:
    """A head and nodes in network namespaces of their own: 10.213.0.1 and on, each by a device ``eth0``.

    Args:
        ray: Whose home and mark their processes carry.
        subnet: The first three parts of their addresses.
    """

    def __init__(self, ray: OwnRay, subnet: str = "10.213.7") -> None:
        self._id = uuid.uuid4().hex[:6]
        self._subnet = subnet
        self._numbers: dict[str, int] = {}
        ip("link", "add", self._bridge, "type", "bridge")
        ip("link", "set", self._bridge, "up")
        self.address = f"{self._host('head')}:6379"
        self._start("head", "--head", "--port=6379", "--include-dashboard=false")
        self.ray = _InNamespace(ray, self._namespace("head"))

    @property
    def _bridge(self) -> str:
        return f"rl{self._id}"

    def _namespace(self, name: str) -> str:
        return f"rl-{self._id}-{name}"

    def _host(self, name: str) -> str:
        """The address of a host, which is made if it is not there."""
        if name not in self._numbers:
            number = self._numbers[name] = len(self._numbers) + 1
            space, outer = self._namespace(name), f"rl{self._id}{number}"
            ip("netns", "add", space)
            ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", outer, "master", self._bridge, "up")
            ip("-n", space, "addr", "add", f"{self._subnet}.{number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", space, "link", "set", device, "up")
        return f"{self._subnet}.{self._numbers[name]}"

    def _start(self, name: str, *arguments: str) -> None:
        here = ["ip", "netns", "exec", self._namespace(name)]
        each = [f"--node-ip-address={self._host(name)}", "--num-cpus=1", "--object-store-memory=100000000"]
        command = [*here, str(BIN / "ray"), "start", *each, "--disable-usage-stats", *arguments]
        done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def add(self, name: str) -> None:
        """Start a node on its host."""
        self._host(name)
        self._start(name, f"--address={self.address}")

    def lose(self, name: str) -> None:
        """Kill all processes of a host at once."""
        for pid in ip("netns", "pids", self._namespace(name)).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        """Kill all that runs on the hosts, and take them down."""
        for name in self._numbers:
            self.lose(name)
            ip("netns", "del", self._namespace(name))
        ip("link", "del", self._bridge)


class _InNamespace(OwnRay):
    """Commands on a host."""

    def __init__(self, ray: OwnRay, namespace: str) -> None:
        self.home, self.environment, self._mark = ray.home, ray.environment, ray._mark
        self._namespace = namespace

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self._namespace, *super().command(*arguments)]


def ip(*arguments: str) -> str:
    """Configure the network."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def why_no_hosts() -> str:
    """Why this machine gives no network namespaces; an empty string where it does."""
    if shutil.which("ip") is None:
        return "there is no `ip` command"
    name = f"rl-probe-{uuid.uuid4().hex[:6]}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, timeout=20)
    if done.returncode:
        return f"no network namespaces: {done.stderr.strip()}"
    ip("netns", "del", name)
    return ""


@contextlib.contextmanager
def network_hosts(patch: pytest.MonkeyPatch, **environment: str) -> Iterator[Nodes]:
    """Hosts with a network of their own; the storage is the disk that all of them see."""
    device = {"GLOO_SOCKET_IFNAME": "eth0", "RAY_AUTH_MODE": "disabled"}
    with own_ray(**device, **environment) as ray:
        for name, value in ray.environment.items():
            patch.setenv(name, value)
        nodes = NetworkHosts(ray)
        try:
            yield nodes
        finally:
            nodes.close()
