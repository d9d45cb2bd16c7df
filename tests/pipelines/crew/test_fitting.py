"""What the driver knows of a start whose controller answers, is silent, or is gone."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions

from rayllm.pipelines.train.crew import fitting
from rayllm.pipelines.train.crew.board import Said
from rayllm.pipelines.train.crew.fitting import Fitting
from rayllm.pipelines.train.crew.sizing import Seat

TOLD = Said(records=({"step": 1},), seats=(Seat(0, "node", "host", 1),))
SILENT = ray.exceptions.GetTimeoutError()
GONE = ray.exceptions.RayActorError()


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A start whose controller gives one answer after another."""
    answers: list[Said | Exception] = []

    def get(ref: object, timeout: float) -> Said:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    controller = SimpleNamespace(look=SimpleNamespace(remote=lambda: None))
    trainer = SimpleNamespace(controller=controller, fit=lambda: None)
    monkeypatch.setattr(fitting, "_trainer", lambda job, crew: trainer)
    monkeypatch.setattr(fitting.ray, "get", get)
    found: Any = Fitting(None, None)  # pyright: ignore[reportArgumentType]
    found.join()
    return SimpleNamespace(look=found.look, answers=answers, trainer=trainer)


def test_records_are_told_once_and_the_rest_stays_known_when_the_controller_is_gone(fitted: Any) -> None:
    fitted.answers += [TOLD, GONE, GONE]
    assert fitted.look() == TOLD
    assert fitted.look() == fitted.look() == Said(seats=TOLD.seats)


def test_nothing_is_known_of_a_controller_that_is_not_asked_for_yet_or_not_up(fitted: Any) -> None:
    controller, fitted.trainer.controller = fitted.trainer.controller, None
    assert fitted.look() == Said()
    fitted.trainer.controller = controller
    fitted.answers += [SILENT, TOLD]
    assert fitted.look() == Said()
    assert fitted.look() == TOLD


def test_a_controller_that_answers_no_more_is_lost(fitted: Any) -> None:
    fitted.answers += [TOLD, SILENT]
    fitted.look()
    with pytest.raises(ray.exceptions.GetTimeoutError):
        fitted.look()
