"""A training taken from validation to validation, without Ray."""

import threading

from rayllm.core.errors import DataError
from rayllm.pipelines.tune import stepwise
from rayllm.pipelines.tune.stepwise import EndedAtGate, Stepwise

HEAD = {"attempt": 1, "time": 0.0}


def loop(total, every, log, start=0):
    """A training of so many steps that says at which step it is."""

    def body(gate):
        gate.begin()
        try:
            for step in range(start + 1, total + 1):
                log.append(step)
                gate.write({"kind": "train", "step": step, "total_steps": total, **HEAD})
                if step % every == 0 or step == total:
                    gate.write({"kind": "validation", "step": step, "tokens": 10 * step, "loss/a": 1 / step, **HEAD})
        finally:
            log.append("left")
        return True

    return body


def test_each_advance_trains_to_the_next_validation_and_no_further():
    log = []
    course = Stepwise(loop(6, 2, log))
    first = course.advance()
    assert (first.point.step, first.point.tokens, first.point.metrics, first.ended) == (2, 20, {"loss/a": 0.5}, "")
    assert log == [1, 2]
    assert course.advance().point.step == 4
    course.end()


def test_the_last_validation_and_the_end_come_together():
    course = Stepwise(loop(4, 2, []))
    course.advance()
    last = course.advance()
    assert (last.point.step, last.ended) == (4, "finished")


def test_a_training_that_is_ended_leaves_its_loop_before_end_returns():
    log = []
    course = Stepwise(loop(6, 2, log))
    course.advance()
    course.end()
    assert log == [1, 2, "left"]
    assert not any(thread.name == "trial" for thread in threading.enumerate())


def test_an_error_is_told_in_its_own_words():
    def body(gate):
        raise DataError("a shard is gone", where="s3://data")

    reached = Stepwise(body).advance()
    assert (reached.ended, reached.error) == ("failed", "a shard is gone\n  where: s3://data")
    assert "Traceback" in reached.trace


def test_a_training_that_nobody_drives_ends_itself_and_goes_on_when_somebody_does(monkeypatch):
    monkeypatch.setattr(stepwise, "LAPSE_S", 0.05)
    log, starts = [], []

    def body(gate):
        starts.append(1)
        return loop(6, 2, log, start=2 * (len(starts) - 1))(gate)

    course = Stepwise(body)
    course.advance()
    course._thread.join(5)
    assert log == [1, 2, "left"]
    assert course.advance().point.step == 4
    assert log == [1, 2, "left", 3, 4]
    course.end()


def test_validations_that_were_seen_before_a_lapse_are_not_told_twice(monkeypatch):
    monkeypatch.setattr(stepwise, "LAPSE_S", 0.05)
    course = Stepwise(loop(6, 2, []))  # it has no checkpoint, and begins anew
    course.advance()
    course._thread.join(5)
    monkeypatch.setattr(stepwise, "LAPSE_S", 30.0)
    assert course.advance().point.step == 4
    course.end()


def test_a_training_with_workers_of_its_own_does_not_wait_here_and_is_told_every_answer():
    told, answers = threading.Event(), []

    def answered(step, go_on):
        answers.append((step, go_on))
        if not go_on:
            told.set()

    def body(gate):
        gate.on_answer = answered
        for step in (1, 2, 3):
            gate.write({"kind": "validation", "step": step, "tokens": 1, **HEAD})
        return not told.wait(10)

    course = Stepwise(body, waits=False)
    assert [course.advance().point.step, course.advance().point.step] == [1, 2]
    course.end()
    assert answers == [(1, True), (2, False)]  # not of the third, which it has come to meanwhile


def test_an_end_at_the_gate_is_no_failure():
    def body(gate):
        raise EndedAtGate("stopped")

    assert Stepwise(body).advance().ended == "asked"


def test_the_validation_before_the_last_is_not_taken_for_it_where_the_training_does_not_wait():
    def body(gate):
        for kind, step in (("validation", 140), ("train", 150), ("validation", 150)):
            gate.write({"kind": kind, "step": step, "tokens": step, "total_steps": 150, **HEAD})
        return True

    course = Stepwise(body, waits=False)
    course._start()
    course._thread.join(5)  # the crew has gone on before anybody looks
    reached = [course.advance(), course.advance()]
    assert [(one.point.step, one.ended) for one in reached] == [(140, ""), (150, "finished")]
