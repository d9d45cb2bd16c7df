import time
from collections.abc import Callable

import pytest
import torch
from ranks import run_ranks

from rayllm.core.errors import RunFailed
from rayllm.train import collective


def use_all() -> dict[str, object]:
    rank = collective.rank()
    collective.barrier()
    problems = {"none": "", "one": "no room" if rank == 1 else "", "all": f"broken {rank}"}
    return {
        "place": (rank, collective.world_size()),
        "sum": collective.sum_over_ranks(torch.tensor([1.0, float(rank)])).tolist(),
        "broadcast": collective.broadcast({"from": rank} if rank == 0 else None),
        "gather": collective.gather(f"rank {rank}"),
        "together": {name: told(problem) for name, problem in problems.items()},
    }


def told(problem: str) -> list[str]:
    """What the parts of all ranks gave, or how it is told that one failed; in a group of its own, as when saving."""

    def part() -> str:
        if problem:
            raise OSError(28, problem)
        return f"part {collective.rank()}"

    try:
        return collective.together(part, what="saving", where="/runs", fix="free space", group=collective.new_group())
    except RunFailed as error:
        return str(error).splitlines()


def test_every_rank_gets_the_same_answers() -> None:
    results = run_ranks(use_all, 2)
    assert [result.pop("place") for result in results] == [(0, 2), (1, 2)]
    assert results[0] == results[1]
    assert results[0]["sum"] == [2.0, 1.0]
    assert results[0]["broadcast"] == {"from": 0}
    assert results[0]["gather"] == ["rank 0", "rank 1"]


LATE_S = 0.5


def begin_while_one_is_late() -> tuple[float, list[float]]:
    """Seconds until the sum was begun, and the sum."""
    collective.barrier()
    if collective.rank() == 1:
        time.sleep(LATE_S)
    values, start = torch.tensor([1.0, float(collective.rank())]), time.perf_counter()
    wait = collective.begin_sum(values)
    begun_s = time.perf_counter() - start
    wait()
    return begun_s, values.tolist()


def test_a_sum_that_is_begun_waits_for_nobody_until_it_is_needed() -> None:
    (begun_s, first), (_, second) = run_ranks(begin_while_one_is_late, 2)
    assert begun_s < LATE_S / 2
    assert first == second == [2.0, 1.0]


def test_one_rank_s_problem_stops_all_and_is_told_with_its_rank() -> None:
    for result in run_ranks(use_all, 2):
        assert result["together"]["none"] == ["part 0", "part 1"]
        failed = ["saving failed", "  where: rank 1, /runs", "  why:   no room", "  fix:   free space"]
        assert result["together"]["one"] == failed
        assert "rank 0" in result["together"]["all"][1]
        assert "broken 0" in result["together"]["all"][2]


def test_one_process_alone_needs_no_group() -> None:
    assert (collective.rank(), collective.world_size()) == (0, 1)
    assert collective.broadcast("x") == "x"
    assert collective.gather("x") == ["x"]
    assert collective.sum_over_ranks(torch.tensor([2.0])).tolist() == [2.0]
    alone = torch.tensor([3.0])
    collective.begin_sum(alone)()
    assert alone.tolist() == [3.0]
    collective.barrier()
    assert collective.together(lambda: 3, what="anything") == [3]
    with pytest.raises(RunFailed, match="rank 0"):
        collective.together(fail, what="anything")


def fail() -> None:
    raise OSError("broken")


def _led(signs: int) -> tuple[str, int]:
    """What rank 0 found in a second in which it got on so often, and the signs of life of this rank."""
    beats: list[float] = []

    def find(got_on: Callable[[], object]) -> str:
        for sign in range(10):
            time.sleep(0.1)
            if sign < signs:
                got_on()
        return f"found by {collective.rank()}"

    collective.BEAT_S = 0.02
    return collective.led(find, lambda: beats.append(0)), len(beats)


@pytest.mark.parametrize("world_size", [1, 2])
def test_while_the_first_rank_gets_on_all_show_signs_of_life(world_size: int) -> None:
    for signs in (0, 4):
        assert run_ranks(_led, world_size, signs) == [("found by 0", signs)] * world_size


def _led_astray() -> str:
    def find(got_on: Callable[[], object]) -> str:
        raise OSError("the store is gone")

    with pytest.raises((OSError, RunFailed), match="the store is gone") as caught:
        collective.led(find, lambda: None)
    return caught.type.__name__


def test_where_the_first_rank_fails_nobody_is_left_waiting() -> None:
    assert run_ranks(_led_astray, 2) == ["OSError", "RunFailed"]
