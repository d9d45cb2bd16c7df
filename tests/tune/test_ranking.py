import pytest
from made_results import result

from rayllm.core.errors import RunFailed
from rayllm.tune.ranking import rank


def by_mean(result):
    return result.metrics["mean_bits_per_byte"]


def test_trials_are_ranked_by_the_objective_with_failures_last():
    ranked = rank([result(0, 2.5), result(1, error="died"), result(2, 1.5), result(3, 1.5)], by_mean)
    assert [one.trial for one in ranked] == [2, 3, 0, 1]


def test_a_sweep_without_a_success_fails_with_the_causes():
    with pytest.raises(RunFailed, match="trial 0: out of memory; trial 1: no shard"):
        rank([result(0, error="out of memory\n  long trace"), result(1, error="no shard")], by_mean)


def test_stopped_trials_come_after_finished_ones_the_longest_first():
    trials = [result(0, 1.0, status="stopped", tokens=10), result(1, 3.0), result(2, 2.0, status="stopped", tokens=20)]
    assert [one.trial for one in rank(trials, by_mean)] == [1, 2, 0]
