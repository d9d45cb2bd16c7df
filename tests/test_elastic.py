"""Nodes are lost and come while a run trains: it goes on with the workers there is room for, on the same batches."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clusters import Nodes, local_nodes, network_hosts, why_no_hosts
from fault_table import RECOVERY
from figures import Tell
from finished_stages import finish_stages
from own_ray import wait_until
from packing_fixture import texts_of
from ranks import run_ranks
from recovery import first_step_s
from straight_run import straight_run
from tiny_run import write_run

from rayllm.core.checkpoint import list_checkpoints, verify_checkpoint
from rayllm.pipelines.run_config import load_run

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

EVERY = 20
#: Each step takes at least so long that nodes come and go in the middle.
SLOW = {"RAYLLM_ALLOW_FAULTS": "1", "RAYLLM_FAULT": "step=slow"}

LOST_AND_CAME = "on with fewer from the last checkpoint, then with all; losses of one worker"
Record = Callable[[str, float], None]


def write_file(root: Path) -> Path:
    file = write_run(
        root,
        str(root / "runs"),
        max_steps=5000,
        checkpoint={"every_steps": EVERY, "asynchronous": False},  # so that it is known which one is there
        validation={"every_steps": 5000, "max_tokens": 1024},
        samples={"every_steps": 0, "max_new_tokens": 1},
        workers={"count": [2, 3], "cpus": 1, "grow_after_s": 1},
        guards={"audit": False},
    )
    texts = {domain: texts_of(domain, 150) for domain in ("code", "math")}
    splits = {domain: {"train": [each[20:]], "validation": [each[:20]]} for domain, each in texts.items()}
    finish_stages(load_run(str(file), []), splits)
    return file


@pytest.mark.fault("P3", "a node is lost, and comes back", LOST_AND_CAME)
def test_nodes_of_a_cluster_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Tell, record_property: Record
) -> None:
    with local_nodes(monkeypatch, **SLOW) as nodes:
        for event, found in lose_and_gain(tmp_path, nodes, record_property).items():
            tell("nodes that go and come", nodes="of one host", event=event, found=found)


@pytest.mark.fault("P3", "a host with a network of its own is lost, and comes back", LOST_AND_CAME)
def test_hosts_with_networks_of_their_own_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Tell, record_property: Record
) -> None:
    if reason := why_no_hosts():
        pytest.skip(reason)
    with network_hosts(monkeypatch, **SLOW) as nodes:
        for event, found in lose_and_gain(tmp_path, nodes, record_property).items():
            tell("nodes that go and come", nodes="hosts", event=event, found=found)


@pytest.mark.fault("P3", "a node is to be taken away", "it is left in time, and no step is done twice")
def test_a_node_that_is_to_be_taken_away_is_left_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    with local_nodes(monkeypatch, **SLOW) as nodes:
        file = write_file(tmp_path)
        nodes.add("b")
        nodes.add("c")
        running = nodes.ray.start("train", str(file), f"ray.address={nodes.address}")
        wait_until(lambda: last_step(tmp_path, 1) >= 10, running, 180)
        drained_at = time.time()
        nodes.drain("c", seconds=300)
        wait_until(lambda: last_step(tmp_path, 2) > 0, running, 180)
        os.killpg(running.pid, signal.SIGINT)
        _, console = running.communicate(timeout=120)
    assert running.returncode == 75, console
    events = [record["message"] for record in read(tmp_path / "runs") if record["kind"] == "event"]
    assert any(
        re.match(r"attempt 2: 2 workers \(was 3\): node \S+ is about to be taken away", text) for text in events
    ), events
    steps = {attempt: [r["step"] for r in trained(tmp_path) if r["attempt"] == attempt] for attempt in (1, 2)}
    assert steps[2][0] == steps[1][-1] + 1  # no step is done twice
    record_property(RECOVERY, first_step_s(trained(tmp_path), since=drained_at, attempt=2))


def lose_and_gain(root: Path, nodes: Nodes, record_property: Record) -> dict[str, str]:
    """Three workers, then two since a node is lost, then three since it is there again; returns what to tell."""
    file = write_file(root)
    nodes.add("b")
    nodes.add("c")
    running = nodes.ray.start("train", str(file), f"ray.address={nodes.address}")
    wait_until(lambda: last_step(root, 1) >= EVERY + 10, running, 180)
    lost_at = time.time()
    nodes.lose("c")
    wait_until(lambda: last_step(root, 2) > 0, running, 180)
    came_at = time.time()
    nodes.add("c")
    wait_until(lambda: last_step(root, 3) > 0, running, 180)
    wait_until(lambda: last_step(root, 3) >= last_step(root, 2) + 10, running, 60)
    os.killpg(running.pid, signal.SIGINT)
    _, console = running.communicate(timeout=120)
    assert running.returncode == 75, console

    records = trained(root)
    events = [record["message"] for record in read(root / "runs") if record["kind"] == "event"]
    lost = next(text for text in events if text.startswith("attempt 2"))
    assert re.match(r"attempt 2: 2 workers \(was 3\): node \S+ was lost", lost), lost
    assert "attempt 3: 3 workers (was 2): there is room for 1 more" in events
    assert lost in console
    assert re.search(r"attempt 1 ended: node \S+ was lost; going on from step-\d+-a1", console)

    steps = {attempt: [record["step"] for record in records if record["attempt"] == attempt] for attempt in (1, 2, 3)}
    assert steps[2][0] == steps[1][-1] // EVERY * EVERY + 1  # nothing before the last checkpoint is done again
    assert steps[3][0] == steps[2][-1] + 1  # nothing at all, where the change was planned
    directory = str(next((root / "runs" / "tiny").glob("train-*")))
    verify_checkpoint(list_checkpoints(directory + "/checkpoints")[-1].uri, deep=True)

    straight = root / "straight"
    run_ranks(straight_run, 1, str(file), str(straight), steps[3][-1])
    expected = {record["step"]: record for record in read(straight) if record["kind"] == "train"}
    gap = max(abs(record["loss"] - expected[record["step"]]["loss"]) for record in records)
    assert gap < 1e-5
    for record in records:
        counts = {name: value for name, value in record.items() if name.startswith("tokens/")}
        assert counts == {name: expected[record["step"]][name] for name in counts}

    for attempt, since in ((2, lost_at), (3, came_at)):
        record_property(RECOVERY, first_step_s(records, since=since, attempt=attempt))
    first = {attempt: next(r["time"] for r in records if r["attempt"] == attempt) for attempt in (2, 3)}
    pause = first[3] - max(record["time"] for record in records if record["attempt"] == 2)
    again = steps[1][-1] - steps[2][0] + 1
    return {
        "node lost": f"{first[2] - lost_at:.1f} s to the next step, {again} steps done again",
        "node came": f"{first[3] - came_at:.1f} s until it trained, {pause:.1f} s of that without a step, none again",
        "both": f"largest gap to the losses of one worker: {gap:.1e}",
    }


def read(directory: Path) -> list[dict[str, Any]]:
    """Whole records of a run's metrics; the last line of a file that is being written may be torn."""
    file = next(directory.rglob("metrics.jsonl"), None)
    lines = file.read_text().splitlines(keepends=True) if file else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def trained(root: Path) -> list[dict[str, Any]]:
    return [record for record in read(root / "runs") if record["kind"] == "train"]


def last_step(root: Path, attempt: int) -> int:
    return max((record["step"] for record in trained(root) if record["attempt"] == attempt), default=0)
