"""A training with workers of its own stands still where its driver decides about it."""

import threading
import time

import pytest

from rayllm.core import storage
from rayllm.pipelines.train import turnstile
from rayllm.pipelines.train.job import STOP_FILE
from rayllm.pipelines.train.turnstile import Turnstile, forget, let_go_on

VALIDATION, TRAIN = {"kind": "validation"}, {"kind": "train", "total_steps": 20}


def passing(gate, step):
    """A thread that writes a validation's record."""
    thread = threading.Thread(target=gate.write, args=({**VALIDATION, "step": step},), daemon=True)
    thread.start()
    return thread


@pytest.fixture
def gate(tmp_path, monkeypatch):
    monkeypatch.setattr(turnstile, "POLL_S", 0.01)
    return Turnstile(str(tmp_path), (5, 10, 20), lambda: False)


def test_it_waits_until_it_may_go_on(gate, tmp_path):
    thread = passing(gate, 5)
    time.sleep(0.1)
    assert thread.is_alive()
    let_go_on(str(tmp_path), 5)
    thread.join(5)
    assert not thread.is_alive()
    assert not gate()
    thread = passing(gate, 10)  # the word about step 5 is none about step 10
    time.sleep(0.1)
    assert thread.is_alive()
    let_go_on(str(tmp_path), 10)
    thread.join(5)
    assert not thread.is_alive()


def test_it_is_asked_to_stop_at_once(gate, tmp_path):
    thread = passing(gate, 5)
    storage.write_text(str(tmp_path / STOP_FILE), "stop\n")
    thread.join(5)
    assert not thread.is_alive()
    assert gate()


def test_it_waits_at_no_other_validation(gate):
    gate.write({**VALIDATION, "step": 6})
    gate.write({**TRAIN, "step": 20})
    gate.write({**VALIDATION, "step": 20})  # the last one
    assert not gate()


def test_it_does_not_wait_for_ever(gate, monkeypatch, caplog):
    monkeypatch.setattr(turnstile, "LAPSE_S", 0.05)
    gate.write({**VALIDATION, "step": 5})
    assert not gate()
    assert "nobody said" in caplog.text


def test_what_an_earlier_start_was_told_is_forgotten(gate, tmp_path):
    let_go_on(str(tmp_path), 10)
    gate.write({**VALIDATION, "step": 5})
    forget(str(tmp_path))
    thread = passing(gate, 5)
    time.sleep(0.1)
    assert thread.is_alive()
