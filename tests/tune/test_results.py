import json

import pytest

from rayllm.core.errors import ArtifactDamaged, RunFailed
from rayllm.tune.results import Ledger, TrialResult, finite, rank, to_json, to_markdown

OBJECTIVE = "mean_bits_per_byte"


def result(trial, score=None, error="", **settings):
    metrics = {} if score is None else {OBJECTIVE: score, "bits_per_byte/code": score + 1}
    return TrialResult(trial=trial, key=f"k{trial}", settings=settings, metrics=metrics, wall_s=3.2, error=error)


def test_trials_are_ranked_by_the_objective_with_failures_last():
    ranked = rank([result(0, 2.5), result(1, error="died"), result(2, 1.5), result(3, 1.5)], OBJECTIVE)
    assert [one.trial for one in ranked] == [2, 3, 0, 1]


def test_a_sweep_without_a_success_fails_with_the_causes():
    with pytest.raises(RunFailed, match="trial 0: out of memory; trial 1: no shard"):
        rank([result(0, error="out of memory\n  long trace"), result(1, error="no shard")], OBJECTIVE)


def test_the_table_shows_settings_scores_and_causes():
    ranked = rank([result(0, 2.5), result(1, error="a|b\ntrace"), result(2, 1.25, lr=0.125, w={"a": 1 / 3})], OBJECTIVE)
    assert to_markdown(ranked, OBJECTIVE).splitlines() == [
        "| rank | trial | lr | w | mean_bits_per_byte | bits_per_byte/code | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 1 | 2 | 0.125 | a 0.333 | 1.2500 | 2.2500 | 3 |",
        "| 2 | 0 | as in the run file | as in the run file | 2.5000 | 3.5000 | 3 |",
        "| 3 | 1 | as in the run file | as in the run file | failed: a\\|b |  | 3 |",
    ]


def test_the_ranking_is_plain_json():
    value = json.loads(json.dumps(to_json(rank([result(0, 2.0), result(1, 1.0)], OBJECTIVE), OBJECTIVE)))
    assert value["best"] == 1
    assert [row["trial"] for row in value["trials"]] == [1, 0]


def test_the_ledger_comes_back_from_its_file(tmp_path):
    ledger = Ledger(str(tmp_path / "trials.jsonl"))
    written = [result(0, 2.0), result(1, error="died"), result(2, 1.0, lr=0.5)]
    for one in written:
        ledger.append(one)
    again = Ledger(str(tmp_path / "trials.jsonl"))
    assert again.results == written
    assert set(again.finished()) == {"k0", "k2"}  # what failed runs again


def test_a_damaged_line_of_the_ledger_is_named(tmp_path):
    path = tmp_path / "trials.jsonl"
    Ledger(str(path)).append(result(0, 2.0))
    path.write_text(path.read_text() + '{"trial": 1')
    with pytest.raises(ArtifactDamaged) as caught:
        Ledger(str(path))
    assert caught.value.where == f"{path}:2"


def test_only_finite_numbers_are_metrics():
    assert finite({"a": 1, "b": float("nan"), "c": float("inf"), "d": "text", "e": None, "f": 0.5}) == {
        "a": 1.0,
        "f": 0.5,
    }
