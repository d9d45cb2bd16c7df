"""The storage probe on a cluster of two nodes: a shared place passes, a node's own is named with what to change.

The nodes are processes of this machine, so what differs between them is a variable: ``dir://`` storage lies below
``FSSPEC_DIR_PATH``, and the second node has another one. To the probe that is a path that each node has for itself.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from own_ray import own_ray

from rayllm.core import storage
from rayllm.pipelines import storage_probe

SECOND_NODE = "127.0.0.2"

#: For each case, a list of variables and URIs: a second node that has those variables, and what is said of those URIs.
PROBE = """
import json, sys
import ray
from ray.cluster_utils import Cluster
from rayllm.core.errors import SetupError
from rayllm.pipelines.ray_runtime import num_nodes
from rayllm.pipelines.storage_probe import probe_storage

def said(uri):
    try:
        probe_storage(uri)
    except SetupError as error:
        return [error.what, error.where, error.why, error.fix]
    return []

cluster = Cluster(head_node_args={"num_cpus": 1, "include_dashboard": False}, initialize_head=True)
ray.init(address=cluster.address, log_to_driver=False)
answers = []
for variables, *uris in json.loads(sys.argv[2]):
    node = cluster.add_node(num_cpus=1, node_ip_address=sys.argv[1], env_vars=variables)
    assert num_nodes() == 2
    answers += map(said, uris)
    cluster.remove_node(node)
print(json.dumps(answers))
"""


@pytest.mark.ray
def test_a_node_that_cannot_use_the_storage_is_named_with_what_to_change(tmp_path: Path) -> None:
    here, there, shared = (tmp_path / name for name in ("here", "there", "shared"))
    for path in (here, there):
        path.mkdir()
    variables = {
        "FSSPEC_DIR_PATH": str(here),
        "FSSPEC_DIR_TARGET_PROTOCOL": "file",
        "FSSPEC_FILE_AUTO_MKDIR": "true",
    }
    elsewhere = {"FSSPEC_DIR_PATH": str(there)}
    without_package = {"FSSPEC_DIR_TARGET_PROTOCOL": "gopher"}
    cases = [[elsewhere, str(shared), "dir://runs"], [without_package, "dir://runs"]]
    with own_ray(**variables) as ray:
        command = [sys.executable, "-c", PROBE, SECOND_NODE, json.dumps(cases)]
        done = subprocess.run(command, env=ray.environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    of_shared, of_own, of_unusable = json.loads(done.stdout.splitlines()[-1])
    assert of_shared == []
    for what, where, _, fix in (of_own, of_unusable):
        assert what == "the storage is not shared by all nodes"
        assert where == f"storage=dir://runs, on node {SECOND_NODE}"
        assert "set `storage=`" in fix
    assert of_own[2] == "what the driver wrote is not there"
    assert "cannot open dir: URIs" in of_unusable[2]
    assert "gopher" in of_unusable[2]
    for path in (here, there, shared):
        assert not list(path.rglob(".probe-*"))


def test_each_way_of_not_sharing_has_words_of_its_own(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert storage_probe._write(folder, "a", []) == "what the driver wrote is not there"
    (tmp_path / "driver").write_text("driver")
    assert storage_probe._write(folder, "a", []) == ""
    assert storage_probe._read(folder, "a", ["a", "b", "c"]) == "what 2 of 3 nodes wrote is not there"
    storage.write_text(storage.join(folder, "b"), "b")
    assert storage_probe._read(folder, "a", ["a", "b"]) == ""
