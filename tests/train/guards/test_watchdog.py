import json
import threading
import time
from pathlib import Path

import pytest

from rayllm.core import storage
from rayllm.train.guards.watchdog import STALLED, Watchdog, describe_stalls, stalls_of


@pytest.mark.fault("P13", "a rank stops in a phase", "its stacks are written, it ends")
def test_a_rank_that_stops_is_named_with_its_stacks_and_ended(tmp_path: Path) -> None:
    ended = threading.Event()
    codes: list[int] = []
    dog = Watchdog(str(tmp_path), 1, 2, 0.2, end=lambda code: (codes.append(code), ended.set()))
    for _ in range(5):
        dog.beat(7, "forward and backward")
        time.sleep(0.1)
    assert not codes
    assert ended.wait(5)
    assert codes == [STALLED]
    (line,) = describe_stalls(str(tmp_path), 2)
    assert line.startswith("rank 1 made no progress for 0 s at step 7: forward and backward; its stacks: ")
    note = json.loads(Path(line.rpartition("its stacks: ")[2]).read_text())
    assert "test_a_rank_that_stops_is_named" in note["stacks"]


def test_a_rank_that_waits_for_others_ends_after_the_one_that_it_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks = iter([[("MainThread", "torch/distributed/distributed_c10d.py")], [("MainThread", "loop.py")]])
    monkeypatch.setattr("rayllm.train.guards.watchdog._stacks", lambda: next(stacks))
    ended: list[int] = []
    waiting = Watchdog(str(tmp_path), 0, 1, 0.8, end=lambda _: ended.append(0))
    waiting.beat(3, "optimizer step")  # and notices first
    time.sleep(0.1)
    hanging = Watchdog(str(tmp_path), 1, 1, 0.8, end=lambda _: ended.append(1))
    hanging.beat(3, "forward and backward")
    deadline = time.monotonic() + 5
    while len(ended) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ended == [1, 0]
    assert [line.split()[1] for line in describe_stalls(str(tmp_path), 1)] == ["1", "0"]


def test_a_watchdog_that_is_closed_or_off_ends_nothing(tmp_path: Path) -> None:
    codes: list[int] = []
    dog = Watchdog(str(tmp_path), 0, 1, 0.1, end=codes.append)
    dog.close()
    Watchdog(str(tmp_path), 0, 1, 0, end=codes.append)
    time.sleep(0.4)
    assert not codes
    assert describe_stalls(str(tmp_path), 1) == []


def write_note(directory: Path, rank: int, waits: bool, since: float) -> None:
    note = {"rank": rank, "step": 3, "phase": "forward and backward", "silent_s": 9.0, "since": since}
    where = storage.join(stalls_of(str(directory), 1), f"rank-{rank:05d}.json")
    storage.write_text(where, json.dumps(note | {"waits": waits, "stacks": ""}))


def test_the_rank_that_stood_elsewhere_comes_before_those_that_waited_for_it(tmp_path: Path) -> None:
    for rank, waits in ((0, True), (1, False), (2, True)):
        write_note(tmp_path, rank, waits, since=5.0 if rank == 1 else 4.0)
    Path(stalls_of(str(tmp_path), 1), ".rank-00003.json.71.tmp").write_text('{"rank": 3')
    lines = describe_stalls(str(tmp_path), 1)
    assert [line.split()[1] for line in lines] == ["1", "0", "2"]
    assert ["waiting for other ranks" in line for line in lines] == [False, True, True]


def test_of_ranks_of_which_none_is_seen_to_wait_the_one_that_stood_first_comes_first(tmp_path: Path) -> None:
    for rank, since in ((0, 7.5), (1, 7.0), (2, 4.0)):
        write_note(tmp_path, rank, waits=False, since=since)
    assert [line.split()[1] for line in describe_stalls(str(tmp_path), 1)] == ["2", "1", "0"]
