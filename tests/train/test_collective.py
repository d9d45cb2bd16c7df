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
        "agree": {name: agreed(problem) for name, problem in problems.items()},
    }


def agreed(problem: str) -> str:
    try:
        collective.agree(problem, what="saving", fix="free space")
    except RunFailed as error:
        return str(error)
    return ""


def test_every_rank_gets_the_same_answers() -> None:
    results = run_ranks(use_all, 2)
    assert [result.pop("place") for result in results] == [(0, 2), (1, 2)]
    assert results[0] == results[1]
    assert results[0]["sum"] == [2.0, 1.0]
    assert results[0]["broadcast"] == {"from": 0}
    assert results[0]["gather"] == ["rank 0", "rank 1"]


def test_one_rank_s_problem_stops_all_and_is_told_with_its_rank() -> None:
    for result in run_ranks(use_all, 2):
        assert result["agree"]["none"] == ""
        told = result["agree"]["one"].splitlines()
        assert told == ["saving failed", "  where: rank 1", "  why:   no room", "  fix:   free space"]
        assert "rank 0" in result["agree"]["all"]
        assert "broken 0" in result["agree"]["all"]


def test_one_process_alone_needs_no_group() -> None:
    assert (collective.rank(), collective.world_size()) == (0, 1)
    assert collective.broadcast("x") == "x"
    assert collective.gather("x") == ["x"]
    assert collective.sum_over_ranks(torch.tensor([2.0])).tolist() == [2.0]
    collective.barrier()
    collective.agree("", what="anything")
    with pytest.raises(RunFailed, match="rank 0"):
        collective.agree("broken", what="anything")
