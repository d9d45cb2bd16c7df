"""Causes are found behind their consequences, and told in a few lines."""

import pytest

from rayllm.core.errors import RunFailed
from rayllm.pipelines.nodes import Node, room
from rayllm.pipelines.train.crew.failures import FRAMES, Ending, Report, failed_run, find_cause, full_trace, report_of
from rayllm.pipelines.train.crew.sizing import Seat

SEATS = (Seat(0, "id1", "10.0.0.1", 70), Seat(1, "id2", "10.0.0.2", 71))
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:23456"
DIED = "ActorDiedError: The actor died unexpectedly before finishing this task. Worker unexpectedly exits"


def report(rank: int, error: str, message: str) -> Report:
    return Report(rank, error, message, ("rayllm/train/loop.py:7 in _take_step",), f"Traceback ...\n{error}: {message}")


def test_a_report_holds_the_exception_and_our_own_frames_innermost_first() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        room([Node("id", "host", 1, 4.0, 0.0)], 0.0, 0)
    found = report_of(3, caught.value)
    assert (found.rank, found.error) == (3, "ZeroDivisionError")
    assert "division" in found.message
    assert [frame.partition(" in ")[2] for frame in found.frames] == ["room", "<genexpr>", "room"]
    assert found.frames[0].startswith("rayllm/pipelines/nodes.py:")
    assert "Traceback (most recent call last)" in found.trace


def test_no_more_than_five_frames_are_told() -> None:
    def deep(level: int) -> int:
        return room([Node("id", "host", 1, 4.0, 0.0)], 0.0, 0) if level == 0 else deep(level - 1)

    with pytest.raises(ZeroDivisionError) as caught:
        deep(3)
    assert len(report_of(0, caught.value).frames) <= FRAMES


def test_many_lines_of_an_exception_become_one_short_one() -> None:
    found = report_of(0, ValueError("first\n\n   second " + "x" * 1000))
    assert found.message.startswith("first second xxx")
    assert len(found.message) <= 300


@pytest.mark.parametrize(
    "message",
    [
        GLOO,
        "Connection reset by peer",
        "NCCL error: ncclRemoteError: A call failed possibly due to a network error",
        "The client socket has timed out after 60000ms while trying to connect to (10.0.0.1, 4000).",
        "Broken pipe",
    ],
)
def test_who_only_lost_a_connection_is_not_the_cause(message: str) -> None:
    assert report(0, "RuntimeError", message).hearsay
    own = report(1, "IndexError", "index 9 is out of range")
    assert not own.hearsay
    cause = find_cause(Ending(reports=(report(0, "RuntimeError", message), own)), [], [])
    assert cause.what == "rank 1: IndexError: index 9 is out of range"
    assert cause.where == "rayllm/train/loop.py:7 in _take_step"


def test_a_death_without_a_word_is_told_with_its_seat() -> None:
    ending = Ending(seats=SEATS, reports=(report(0, "RuntimeError", GLOO),), deaths={1: DIED})
    cause = find_cause(ending, [], [])
    assert cause.what == "rank 1 (process 71 on 10.0.0.2) died without a word"
    assert "dmesg" in cause.why
    hungry = Ending(seats=SEATS, deaths={1: "OutOfMemoryError: killed due to the node running low on memory"})
    assert "ran out of memory" in find_cause(hungry, [], []).what
    assert "micro_batch_size" in find_cause(hungry, [], []).fix


def test_stalls_and_lost_nodes_come_before_what_they_bring_about() -> None:
    ending = Ending(seats=SEATS, reports=(report(0, "OSError", "shards are gone"),), deaths={1: DIED})
    assert find_cause(ending, [], SEATS[1:]).what == "node 10.0.0.2 was lost"
    assert find_cause(ending, [], SEATS[1:]).where == "rank 1 (process 71 on 10.0.0.2)"
    assert find_cause(ending, [], SEATS).what == "nodes 10.0.0.1, 10.0.0.2 were lost"
    stalls = ["rank 1 made no progress for 9 s at step 6: forward", "rank 0 made no progress, waiting"]
    assert find_cause(ending, stalls, SEATS[1:]).what.startswith("training stood still: rank 1 made no progress")


def test_what_is_left_is_told_too() -> None:
    assert "no place" in find_cause(Ending(no_room=True), [], []).what
    assert find_cause(Ending(reports=(report(0, "RuntimeError", GLOO),)), [], []).what.startswith("rank 0: Runtime")
    assert find_cause(Ending(other="ActorDiedError: the controller"), [], []).why == "ActorDiedError: the controller"


def test_the_error_of_a_run_fits_on_a_screen_with_the_cause_first() -> None:
    frames = "\n         ".join(f"rayllm/train/file{number}.py:{number} in f" for number in range(FRAMES))
    cause = find_cause(Ending(reports=(Report(1, "ValueError", "bad", tuple(frames.split("\n")), "t"),)), [], [])
    error = failed_run(cause, attempt=4, restarts=3, again="run the same command again", trace="/runs/x/attempt-4.txt")
    assert isinstance(error, RunFailed)
    assert error.exit_code == 1
    lines = str(error).splitlines()
    assert lines[0] == "training failed in attempt 4: rank 1: ValueError: bad"
    assert "3 restarts did not help" in str(error)
    assert "the full trace is in /runs/x/attempt-4.txt" in lines[-1]
    assert len(lines) <= 25


def test_the_full_trace_has_every_rank() -> None:
    ending = Ending(seats=SEATS, reports=(report(0, "RuntimeError", GLOO),), deaths={1: DIED}, other="WorkerGroupError")
    text = full_trace(ending)
    for part in ("rank 0:\nTraceback", "rank 1, says Ray:\nActorDied", "process 71 on 10.0.0.2", "WorkerGroupError"):
        assert part in text
