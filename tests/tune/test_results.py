import pytest
from made_results import result

from rayllm.core.errors import ArtifactDamaged
from rayllm.tune.results import Ledger, finite, group_of


def test_the_ledger_comes_back_from_its_file(tmp_path):
    ledger = Ledger(str(tmp_path / "trials.jsonl"))
    written = [result(0, 2.0), result(1, error="died"), result(2, 1.0, settings={"lr": 0.5})]
    for one in written:
        ledger.append(one)
    again = Ledger(str(tmp_path / "trials.jsonl"))
    assert again.results == written
    assert set(again.finished()) == {"k0", "k2"}  # what failed runs again


def test_a_ledger_from_before_restarts_were_counted_is_read(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.write_text(result(0, 2.0, start_s=0.25).model_dump_json(exclude={"restarts_s"}))
    [one] = Ledger(str(path)).results
    assert (one.start_s, one.starts_s) == (0.25, 0.25)


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


def test_replicates_share_a_group():
    assert group_of({"a": 1, "seed": 3}) == group_of({"a": 1}) != group_of({"a": 2})


def test_a_trial_costs_its_gpus_or_its_cpus_where_it_has_none():
    assert result(0, 1.0, wall_s=4, cpus=2).device_s == 8
    assert result(0, 1.0, wall_s=4, cpus=2, gpus=0.5).device_s == 2
