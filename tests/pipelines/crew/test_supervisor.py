"""What follows a start of the workers, without Ray: endings, nodes and checkpoints are scripted."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError
from small_session import make_config

from rayllm.core.errors import ClusterLost, DataError, RunFailed, SavedForRerun, SetupError
from rayllm.pipelines.nodes import Node
from rayllm.pipelines.train.crew import supervisor
from rayllm.pipelines.train.crew.board import Said
from rayllm.pipelines.train.crew.failures import Ending, Report
from rayllm.pipelines.train.crew.sizing import Crew, Seat
from rayllm.pipelines.train.crew.stopping import StopRequest
from rayllm.pipelines.train.crew.supervisor import Supervisor
from rayllm.pipelines.train.job import STOP_FILE, Job

DONE, STOPPED = Ending(outcome="done"), Ending(outcome="stopped")
A, B, C = (Node(name, f"10.0.0.{name}", 1, 1.0, 0.0) for name in "abc")
SEATS = tuple(Seat(rank, node.id, node.host, 70 + rank) for rank, node in enumerate((A, B, C)))
TRAINED = {"kind": "train", "step": 1}


def failed(message: str = "bad") -> Ending:
    return Ending(seats=SEATS, reports=(Report(0, "ValueError", message, (), "trace"),))


@dataclass
class Script:
    """The world of a supervisor.

    Attributes:
        endings: How each start ends; a function is asked then.
        nodes: What there is during each start and after it; the last stays. A function is asked at each look.
        free: How many of the nodes nobody uses.
        checkpoint: Step of the last checkpoint.
        looks: Looks at what was said before each start ends.
        counted: Starts that came so far that they counted themselves; those after them did not.
        silent_s: How long the head has not answered.
        sizes: Workers of each start, filled in.
        news: News of each start, filled in.
        shown: Messages on the console, filled in.
        stop: Whether a stop was asked for, filled in.
    """

    endings: list[Ending | Callable[[], Ending]]
    nodes: list[list[Node] | Callable[[], list[Node]]] = field(default_factory=lambda: [[A, B, C]])
    free: int = 9
    checkpoint: int = 0
    looks: int = 0
    counted: int = 99
    silent_s: float = 0.0
    sizes: list[int] = field(default_factory=list)
    news: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    stop: StopRequest | None = None

    def look(self) -> list[Node]:
        found = self.nodes[min(len(self.sizes), len(self.nodes)) - 1]
        return found() if callable(found) else found

    def show(self, record: dict[str, Any]) -> None:
        self.shown += [record["message"]] if record["kind"] == "event" else []


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Crew]:
    """Runs a script with settings of ``train.workers``."""

    def run(script: Script, **workers: Any) -> Crew:
        class Fitting:
            def __init__(self, job: Job, crew: Crew) -> None:
                script.sizes.append(crew.count)
                script.news += [message for _, message in job.news]
                self._left = script.looks

            def join(self, timeout: float) -> None:
                self._left -= 1

            def is_alive(self) -> bool:
                return self._left >= 0

            def look(self) -> Said:
                found = script.endings[0]
                placed = not (isinstance(found, Ending) and found.no_room)
                return Said(records=(TRAINED,), seats=SEATS) if placed else Said()

            def release(self) -> None:
                pass

            def ending(self, said: Said) -> Ending:
                found = script.endings.pop(0)
                return found if isinstance(found, Ending) else found()

        class Watch:
            silent_s = script.silent_s

            def __init__(self, every_s: float) -> None:
                pass

            @property
            def nodes(self) -> list[Node]:
                return script.look()

            def close(self) -> None:
                pass

        saved = lambda _: [SimpleNamespace(uri=f"x/step-{script.checkpoint}")] if script.checkpoint else []  # noqa: E731
        for name, value in {
            "Fitting": Fitting,
            "live_nodes": script.look,
            "NodeWatch": Watch,
            "reachable": lambda nodes: nodes,
            "unused": lambda nodes: nodes[: script.free],
            "list_checkpoints": saved,
            "read_attempt": lambda directory: min(len(script.sizes), script.counted),
            "LOOK_S": 0.0,
        }.items():
            monkeypatch.setattr(supervisor, name, value)
        config = make_config(tmp_path, workers={"cpus": 1} | workers)
        count = config.train.workers.count
        script.stop = StopRequest(str(tmp_path / STOP_FILE))
        first = Crew(count[1] if isinstance(count, tuple) else count or 2, 1.0, 0)
        display: Any = SimpleNamespace(show=script.show)
        return Supervisor(Job(config, "packed", str(tmp_path)), first, display, script.stop).run()

    return run


def test_a_run_that_is_done_is_started_once(play: Any) -> None:
    script = Script([DONE])
    assert play(script).count == 2
    assert (script.sizes, script.news) == ([2], [])


def test_a_lost_node_is_made_up_for_by_fewer_workers(play: Any) -> None:
    script = Script([failed(), DONE], nodes=[[A, B]])
    assert play(script, count=(2, 3)).count == 2
    assert script.sizes == [3, 2]
    assert script.news == ["attempt 2: 2 workers (was 3): node 10.0.0.c was lost"]
    assert script.shown == ["attempt 1 ended: node 10.0.0.c was lost; starting again, nothing was saved yet"]


def test_a_node_that_comes_is_used_after_a_while_where_it_is_free(play: Any, tmp_path: Path) -> None:
    script = Script([failed(), STOPPED, DONE], nodes=[[A, B], [A, B, C]], looks=3)
    play(script, count=(2, 3), grow_after_s=0)
    assert script.sizes == [3, 2, 3]
    assert script.news[1] == "attempt 3: 3 workers (was 2): there is room for 1 more"
    busy = Script([failed(), DONE], nodes=[[A, B], [A, B, C]], looks=3, free=0)
    play(busy, count=(2, 3), grow_after_s=0)
    soon = Script([failed(), DONE], nodes=[[A, B], [A, B, C]], looks=3)
    play(soon, count=(2, 3), grow_after_s=60)
    assert busy.sizes == soon.sizes == [3, 2]


def test_no_more_workers_are_added_than_have_a_free_place(play: Any) -> None:
    script = Script([failed(), STOPPED, DONE], nodes=[[A], [A, B, C]], looks=3, free=1)
    play(script, count=(1, 3), grow_after_s=0)
    assert script.sizes == [3, 1, 2]


def test_a_lost_cluster_is_told_whatever_was_asked_of_it(play: Any) -> None:
    def gone() -> Ending:
        raise GetTimeoutError("Get timed out: some object(s) not ready.")

    with pytest.raises(ClusterLost, match="the Ray cluster was lost") as told:
        play(Script([gone], checkpoint=8))
    assert "timed out" in told.value.why
    assert "it goes on from step-8" in told.value.fix


def test_a_node_about_to_leave_is_left_in_good_order(play: Any, tmp_path: Path) -> None:
    going = Node("c", "10.0.0.c", 1, 1.0, 0.0, leaving=True)
    script = Script([STOPPED, DONE], nodes=[[A, B, going]], looks=2)
    play(script, count=(2, 3), grow_after_s=60)
    assert script.sizes == [3, 2]
    assert script.news == ["attempt 2: 2 workers (was 3): node 10.0.0.c is about to be taken away"]


def test_a_head_that_does_not_answer_is_told_before_ray_gives_up(play: Any) -> None:
    with pytest.raises(ClusterLost, match="has not answered for 45 s"):
        play(Script([DONE], looks=2, silent_s=45.0))
    play(Script([DONE], looks=2, silent_s=5.0))


def test_a_stop_that_nobody_here_asked_for_ends_the_run(play: Any) -> None:
    with pytest.raises(SavedForRerun, match="was stopped and has saved"):
        play(Script([STOPPED]))


def test_restarts_are_counted_anew_after_each_new_checkpoint(play: Any) -> None:
    script = Script([])

    def fails_after(step: int) -> Callable[[], Ending]:
        def end() -> Ending:
            script.checkpoint = step
            return failed()

        return end

    script.endings = [fails_after(step) for step in (0, 0, 4, 4, 8, 8, 8)]
    with pytest.raises(RunFailed, match="attempt 7: rank 0: ValueError: bad") as told:
        play(script, count=3, max_failures=2)
    assert "2 restarts did not help" in told.value.why
    assert "goes on from step-8" in told.value.fix
    assert len(script.sizes) == 7


def test_no_restarts_are_made_where_none_are_wanted_or_none_would_help(play: Any) -> None:
    with pytest.raises(RunFailed) as told:
        play(Script([failed()]), count=3, max_failures=0)
    assert "did not help" not in told.value.why
    with pytest.raises(DataError, match="wrong data"):
        play(Script([Ending(error=DataError("wrong data"))]), count=3)


def test_too_few_nodes_are_waited_for_and_then_told(play: Any) -> None:
    looks = iter([[A], [A], [A, B], [A, B]])
    script = Script([failed(), DONE], nodes=[lambda: next(looks)])
    play(script, count=(2, 3))
    assert script.sizes == [3, 2]
    assert "waiting for nodes: there is room for 1 of 2 workers" in script.shown
    with pytest.raises(SetupError, match="room for fewer than 2 workers for 0 s") as told:
        play(Script([failed()], nodes=[[A]]), count=(2, 3), wait_s=0)
    assert told.value.why == "it needs 2 CPU (there are 1)"


def test_a_full_cluster_is_not_a_failure_but_may_not_last(play: Any) -> None:
    crowded = Ending(no_room=True)
    script = Script([crowded, crowded, DONE], free=2)
    play(script, count=(2, 3), max_failures=0)
    assert script.sizes == [3, 2, 2]
    with pytest.raises(SetupError, match="room for fewer than 3"):
        play(Script([crowded], free=2), count=3, max_failures=0, wait_s=0)


def test_where_ray_finds_no_place_fewer_are_tried_and_the_fewest_not_for_ever(play: Any) -> None:
    crowded = Ending(no_room=True)
    fewer = Script([crowded, crowded, DONE])
    play(fewer, count=(1, 3), wait_s=0)
    assert fewer.sizes == [3, 2, 1]
    never = Script([crowded] * 9)
    with pytest.raises(SetupError, match="room for fewer than 2 workers for 0 s") as told:
        play(never, count=(2, 3), wait_s=0)
    assert never.sizes == [3, 2]
    assert "others hold the rest" in told.value.why


def test_a_shortage_is_over_once_the_workers_have_their_places(play: Any) -> None:
    def not_yet_given_back() -> Ending:
        script.free = 0
        return STOPPED

    going = Node("c", "10.0.0.c", 1, 1.0, 0.0, leaving=True)
    script = Script([Ending(no_room=True), not_yet_given_back, DONE], nodes=[[A, B, C], [A, B, going]], looks=2)
    play(script, count=(2, 3), grow_after_s=60, wait_s=0)
    assert script.sizes == [3, 2, 2]


def test_one_who_waits_for_nodes_can_be_stopped(play: Any) -> None:
    script, looks = Script([failed()]), iter(range(9))

    def nodes() -> list[Node]:
        assert script.stop is not None
        script.stop.asked = next(looks) > 0  # the first look is for the cause of the failure
        return [A]

    script.nodes = [nodes]
    with pytest.raises(SavedForRerun, match="stopped while it waited for nodes"):
        play(script, count=(2, 3))


def test_a_failure_after_a_stop_was_asked_for_is_not_followed_by_a_restart(play: Any) -> None:
    script = Script([])

    def end() -> Ending:
        assert script.stop is not None
        script.stop.asked = True
        return failed()

    script.endings = [end]
    with pytest.raises(RunFailed, match="ValueError: bad"):
        play(script, count=3)


def test_a_start_that_ends_before_it_counts_itself_is_not_given_the_stall_of_the_one_before(
    play: Any, tmp_path: Path
) -> None:
    note = {"rank": 1, "step": 3, "phase": "forward", "silent_s": 9.0, "since": 1.0, "waits": False, "stacks": ""}

    def stalls() -> Ending:
        where = tmp_path / "stalls" / "attempt-1"
        where.mkdir(parents=True)
        (where / "rank-00001.json").write_text(json.dumps(note))
        return failed()

    script = Script([stalls, failed("the port is taken"), DONE], counted=1)
    play(script, count=3)
    assert script.shown[0].startswith("attempt 1 ended: training stood still: rank 1")
    assert script.shown[1].startswith("attempt 2 ended: rank 0: ValueError: the port is taken")
    assert {path.name for path in (tmp_path / "failures").iterdir()} == {"attempt-1.txt", "attempt-2.txt"}


def test_the_full_trace_of_each_failed_start_is_kept(play: Any, tmp_path: Path) -> None:
    play(Script([failed(), failed(), DONE]), count=3)
    traces: Sequence[Path] = sorted((tmp_path / "failures").iterdir())
    assert [path.name for path in traces] == ["attempt-1.txt", "attempt-2.txt"]
    assert "rank 0:\ntrace" in traces[0].read_text()
