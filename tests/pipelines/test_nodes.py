"""Nodes of a cluster: what fits on them, and which of them answer."""

import itertools
import socket
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from rayllm.pipelines import nodes
from rayllm.pipelines.frame import RayConfig
from rayllm.pipelines.nodes import Node, NodeWatch, expected_nodes, reachable, room, unused


def test_workers_fit_by_cpus_and_by_gpus() -> None:
    assert Node("a", "host", 1, 7.0, 0.0).room(2.0, 0) == 3
    assert Node("a", "host", 1, 7.0, 2.0).room(2.0, 1) == 2
    assert Node("a", "host", 1, 1.0, 8.0).room(2.0, 1) == 0
    assert Node("a", "host", 1, 0.3, 0.0).room(0.1, 0) == 3  # 0.3 / 0.1 is a little less than 3
    assert Node("a", "host", 1, 7.0, 0.0, leaving=True).room(1.0, 0) == 0
    assert room([Node("a", "host", 1, 3.0, 0.0), Node("b", "host", 1, 3.0, 0.0)], 2.0, 0) == 2


def test_a_node_whose_door_is_shut_is_not_reachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        open_ = Node("a", "127.0.0.1", door.getsockname()[1], 1.0, 0.0)
        assert reachable([open_]) == [open_]
        shut = Node("b", "127.0.0.1", open_.port, 1.0, 0.0)
    assert reachable([shut]) == []
    assert reachable([]) == []


def test_what_is_free_on_several_nodes_is_no_place_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.state import state

    free = {"a": {"CPU": 1.0}, "b": {"CPU": 1.0, "GPU": 1.0}, "c": {"CPU": 2.0}}
    monkeypatch.setattr(state, "available_resources_per_node", lambda: free)
    found = unused(Node(name, "host", 1, 6.0, 2.0) for name in "abcd")
    assert [(node.cpus, node.gpus) for node in found] == [(1.0, 0.0), (1.0, 1.0), (2.0, 0.0), (0.0, 0.0)]
    assert (room(found, 3.0, 0), room(found, 2.0, 0), room(found, 1.0, 1)) == (0, 1, 1)


def test_a_head_that_takes_connections_and_says_nothing_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, over = threading.Event(), threading.Event()

    def never_answered() -> list[Node]:
        asked.set()
        over.wait()
        return []

    monkeypatch.setattr(nodes, "_head", lambda: Node("", "host", 1, 0.0, 0.0))
    monkeypatch.setattr(nodes, "_answers", lambda node: True)
    monkeypatch.setattr(nodes, "live_nodes", never_answered)
    watch = NodeWatch(0.01)
    assert asked.wait(10)
    before = watch.silent_s
    time.sleep(0.05)
    assert watch.silent_s - before >= 0.05
    over.set()
    watch.close()


def test_a_look_that_fails_once_does_not_end_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import RaySystemError

    found, looks, over = [Node("a", "host", 1, 1.0, 0.0)], itertools.count(1), threading.Event()

    def failed_once() -> list[Node]:
        look = next(looks)
        if look == 1:
            raise RaySystemError("Failed to connect to GCS.")
        if look == 3:  # what the second saw is noted by now
            over.set()
        return found

    monkeypatch.setattr(nodes, "_head", lambda: Node("", "host", 1, 0.0, 0.0))
    monkeypatch.setattr(nodes, "_answers", lambda node: True)
    monkeypatch.setattr(nodes, "live_nodes", failed_once)
    watch = NodeWatch(0.01)
    assert over.wait(10)
    watch.close()
    assert watch.nodes == found


def test_before_ray_runs_a_machine_has_its_cpus_or_those_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    monkeypatch.setattr(nodes, "has_gpu", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert [node.cpus for node in expected_nodes(RayConfig()) or ()] == [6.0]
    assert [node.cpus for node in expected_nodes(RayConfig(num_cpus=2)) or ()] == [2.0]
    monkeypatch.setattr(nodes, "has_gpu", lambda: True)
    assert expected_nodes(RayConfig()) is None
