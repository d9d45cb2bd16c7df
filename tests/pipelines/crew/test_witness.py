"""What a rank does with the exception that ends it."""

from types import SimpleNamespace
from typing import Any

import pytest

from rayllm.core.errors import DataError
from rayllm.pipelines.train import worker
from rayllm.pipelines.train.worker import HEARSAY_S, Witness


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Notes what it is told, and how long the rank kept it to itself afterwards."""
    told: list[Any] = []
    slept: list[float] = []
    monkeypatch.setattr(worker.ray, "get", lambda ref: ref)
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=slept.append))
    report = SimpleNamespace(remote=lambda *parts: told.append(parts))
    return SimpleNamespace(report=report, told=told, slept=slept)


def fail(board: Any, error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), Witness(board, 3):
        raise error


def test_an_exception_is_told_and_passes(board: Any) -> None:
    fail(board, ValueError("bad"))
    ((report, ours),) = board.told
    assert (report.rank, report.error, report.message) == (3, "ValueError", "bad")
    assert ours is None
    assert board.slept == []


def test_an_error_of_ours_is_told_as_it_is(board: Any) -> None:
    error = DataError("wrong data")
    fail(board, error)
    assert board.told[0][1] is error


def test_a_rank_that_only_lost_a_connection_lets_others_speak_first(board: Any) -> None:
    fail(board, RuntimeError("Connection reset by peer"))
    assert board.slept == [HEARSAY_S]


def test_who_ends_well_tells_nothing(board: Any) -> None:
    with Witness(board, 0):
        pass
    assert board.told == []
