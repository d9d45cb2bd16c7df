"""How many workers a cluster gets, and what is said where they do not fit."""

import pytest
from pydantic import ValidationError

from rayllm.core.errors import SetupError
from rayllm.pipelines.nodes import Node, room
from rayllm.pipelines.train.crew.sizing import (
    Crew,
    Seat,
    describe_start,
    leaving_hosts,
    lost_seats,
    resize,
    size_crew,
)
from rayllm.train.config import WorkersConfig


def nodes(*cpus: float, gpus: float = 0.0) -> list[Node]:
    return [Node(f"id{number}", f"10.0.0.{number}", 1, each, gpus) for number, each in enumerate(cpus, start=1)]


def test_by_default_two_share_the_cpus_or_one_sits_on_each_gpu() -> None:
    assert size_crew(WorkersConfig(), nodes(2)) == Crew(2, 1, 0)
    assert size_crew(WorkersConfig(), nodes(1)) == Crew(1, 1, 0)
    assert size_crew(WorkersConfig(), nodes(32, gpus=4)) == Crew(4, 8, 1)
    assert size_crew(WorkersConfig(count=1), nodes(2)) == Crew(1, 2, 0)
    assert size_crew(WorkersConfig(count=3, cpus=2), nodes(16)).threads == 2


def test_a_worker_fits_on_one_node_however_the_cpus_are_spread() -> None:
    assert size_crew(WorkersConfig(), nodes(2, 2, 2)) == Crew(2, 2, 0)  # not three CPUs each, which no node has
    assert size_crew(WorkersConfig(count=4), nodes(3, 3)) == Crew(4, 1, 0)
    assert room(nodes(3, 3), 2.0, 0) == 2
    with pytest.raises(SetupError, match="each needs 3 CPU; the largest node has 2 CPU"):
        size_crew(WorkersConfig(count=1, cpus=3), nodes(2, 2))


def test_a_range_takes_what_there_is_room_for() -> None:
    elastic = WorkersConfig(count=(2, 4))
    assert size_crew(elastic, nodes(1, 1, 1)) == Crew(3, 1, 0)
    assert size_crew(elastic, nodes(4, 4)) == Crew(4, 2, 0)
    assert size_crew(elastic, nodes(8, 8, 8, 8, 8)) == Crew(4, 8, 0)
    with pytest.raises(SetupError, match=r"2 workers needs more .*\n.*it needs 2 CPU \(there are 1\)"):
        size_crew(elastic, nodes(1))


def test_one_node_less_keeps_the_share_of_each_worker() -> None:
    crew = size_crew(WorkersConfig(count=(1, 4)), nodes(4, 4, 4, 4))
    assert crew == Crew(4, 4, 0)
    left = room(nodes(4, 4, 4), crew.cpus, crew.gpus)
    assert resize(crew, 1, 4, left) == Crew(3, 4, 0)
    assert resize(crew, 4, 4, left) is None


def test_too_many_are_refused_with_what_lacks() -> None:
    with pytest.raises(SetupError, match=r"needs 64 CPU \(there are 2\)") as told:
        size_crew(WorkersConfig(count=64), nodes(2))
    assert told.value.exit_code == 3
    assert "train.workers.count" in told.value.fix
    with pytest.raises(SetupError, match=r"needs 3 GPU \(there are 2\)"):
        size_crew(WorkersConfig(count=3), nodes(8, gpus=2))


def test_nothing_starts_on_a_node_that_is_leaving() -> None:
    going = Node("id2", "10.0.0.2", 1, 4, 0, leaving=True)
    assert room([*nodes(4), going], 1, 0) == 4
    seats = (Seat(0, "id1", "10.0.0.1", 7), Seat(1, "id2", "10.0.0.2", 8))
    assert leaving_hosts(seats, [*nodes(4), going]) == ["10.0.0.2"]
    assert lost_seats(seats, [*nodes(4), going]) == []
    assert lost_seats(seats, nodes(4)) == [seats[1]]


def test_a_start_is_told_with_what_changed() -> None:
    assert (
        describe_start(2, Crew(4, 1, 0), Crew(3, 1, 0), "node 10.0.0.2 was lost")
        == "attempt 2: 3 workers (was 4): node 10.0.0.2 was lost"
    )
    assert describe_start(3, Crew(1, 1, 0), Crew(1, 1, 0), "rank 0: Oops") == "attempt 3: 1 worker: rank 0: Oops"


def test_a_range_is_fewest_and_most() -> None:
    assert WorkersConfig.model_validate({"count": [2, 4]}).bounds(9) == (2, 4)
    assert WorkersConfig(count=3).bounds(9) == (3, 3)
    assert WorkersConfig().bounds(9) == (9, 9)
    with pytest.raises(ValidationError, match=r"write \[2, 4\]"):
        WorkersConfig(count=(4, 2))
    with pytest.raises(ValidationError):
        WorkersConfig(count=(0, 2))
