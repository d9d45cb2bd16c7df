"""What a worker of Ray Train answers its controller, and when."""

import queue
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train.v2._internal.execution.worker_group import worker as ray_worker
from ray.train.v2._internal.execution.worker_group.thread_runner import ThreadRunner

from rayllm.pipelines.train.crew import lean_controller
from rayllm.pipelines.train.crew.lean_controller import LeanTrainWorker


class Work:
    """A worker whose training thread runs until it is told to end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, patience_s: float) -> None:
        self.reports: queue.Queue[Any] = queue.Queue(maxsize=1)
        self.end = threading.Event()
        flushed = SimpleNamespace(shutdown=lambda: None)
        context = SimpleNamespace(
            execution_context=SimpleNamespace(result_queue=self.reports, training_thread_runner=ThreadRunner()),
            preemption_context=SimpleNamespace(preemption_info=None),
            checkpoint_upload_threadpool=flushed,
            get_world_rank=lambda: 0,
        )
        for module in (ray_worker, lean_controller):
            monkeypatch.setattr(module, "get_train_context", lambda: context)
        monkeypatch.setattr(lean_controller, "PATIENCE_S", patience_s)
        self.worker = LeanTrainWorker()
        self.worker.run_train_fn(SimpleNamespace(get=lambda: self._train))  # pyright: ignore[reportArgumentType]

    def _train(self) -> None:
        self.end.wait()
        if self.failure is not None:
            raise self.failure

    failure: Exception | None = None

    def asked(self) -> tuple[Any, float]:
        """The answer, and the seconds that it took."""
        begun = time.monotonic()
        return self.worker.poll_status(), time.monotonic() - begun


def test_a_worker_with_nothing_to_say_answers_after_its_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, patience_s=0.2)
    answer, took_s = work.asked()
    work.end.set()
    assert answer.running
    assert answer.training_report is None
    assert took_s >= 0.2


def test_a_report_is_answered_with_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    work = Work(monkeypatch, patience_s=60)
    threading.Timer(0.1, work.reports.put, ["report"]).start()
    answer, took_s = work.asked()
    work.end.set()
    assert answer.training_report == "report"
    assert took_s < 30


@pytest.mark.parametrize("failure", [None, ValueError("bad")])
def test_the_end_of_training_is_answered_with_at_once(
    failure: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(monkeypatch, patience_s=60)
    work.failure = failure
    threading.Timer(0.1, work.end.set).start()
    answer, took_s = work.asked()
    assert not answer.running
    assert (answer.error is None) == (failure is None)
    assert took_s < 30
