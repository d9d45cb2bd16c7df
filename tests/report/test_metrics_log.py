import json
from typing import Any

from rayllm.report.metrics_log import parse_metrics


def line(kind: str, step: int, attempt: int = 1, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "step": step, "attempt": attempt, "time": 0.0, **fields}


def parse(*lines: dict[str, Any]):
    return parse_metrics("".join(json.dumps(item) + "\n" for item in lines))


def test_steps_that_a_later_attempt_did_again_count_once() -> None:
    log = parse(
        *(line("train", step, loss=1.0) for step in (10, 20, 30, 40)),
        *(line("train", step, 2, loss=2.0) for step in (30, 40, 50)),
    )
    assert [(r["step"], r["loss"]) for r in log.train] == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]


def test_steps_lost_for_good_are_dropped_even_if_no_later_attempt_reached_them_yet() -> None:
    log = parse(line("train", 10), line("train", 90), line("validation", 90), line("train", 20, 2))
    assert [r["step"] for r in log.train] == [10, 20]
    assert log.validation == ()


def test_a_validation_at_the_step_of_the_restart_is_kept_from_the_highest_attempt() -> None:
    log = parse(
        line("validation", 20, mean_loss=1.0),
        line("train", 20),
        line("validation", 20, 2, mean_loss=1.0),
        line("train", 30, 2),
    )
    assert [(r["step"], r["attempt"]) for r in log.validation] == [(20, 2)]
    assert [r["step"] for r in log.train] == [20, 30]


def test_samples_of_one_step_are_told_apart_by_domain() -> None:
    log = parse(line("sample", 5, domain="math"), line("sample", 5, domain="code"), line("sample", 5, domain="math"))
    assert [r["domain"] for r in log.samples] == ["math", "code"]


def test_events_of_all_attempts_stay() -> None:
    log = parse(line("event", 40, message="killed"), line("train", 20, 2), line("event", 40, 2, message="again"))
    assert [r["message"] for r in log.events] == ["killed", "again"]


def test_a_line_cut_off_by_a_crash_is_counted_and_left_out() -> None:
    log = parse_metrics(json.dumps(line("train", 1)) + '\n{"kind": "train", "st')
    assert (len(log.train), log.unreadable) == (1, 1)


def test_line_separators_within_text_do_not_end_a_line() -> None:
    text = json.dumps(line("sample", 1, domain="d", text="a\u2028b\u0085c"), ensure_ascii=False)
    assert parse_metrics(text).samples[0]["text"] == "a\u2028b\u0085c"


def test_the_untrained_scores_are_those_of_step_zero() -> None:
    assert parse(line("validation", 0, mean_loss=8.0), line("validation", 5)).untrained_validation is not None
    assert parse(line("validation", 5)).untrained_validation is None
    assert parse_metrics("").untrained_validation is None
