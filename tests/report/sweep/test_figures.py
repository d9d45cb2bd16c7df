import dataclasses

import pytest
from simulated_sweep import OBJECTIVE
from sweep_records import DOMAINS, law_surface, mixture_sweep

from rayllm.report.sweep.figures import figures_of


@pytest.fixture(scope="module")
def records():
    return mixture_sweep()


@pytest.fixture(scope="module")
def drawn(records):
    return figures_of(records)


def test_curves_are_those_of_the_trials_by_tokens(records, drawn):
    by_id = {one["id"]: one for one in drawn["trials"]}
    for result in records.results:
        expected = [[point.tokens, pytest.approx(point.metrics[OBJECTIVE], rel=1e-6)] for point in result.curve]
        assert by_id[result.trial]["curve"] == expected
        assert by_id[result.trial]["status"] == result.status


def test_a_curve_begins_with_the_first_tokens(records):
    first = records.results[0]
    untrained = first.curve[0].model_copy(update={"step": 0, "tokens": 0})
    longer = first.model_copy(update={"curve": [untrained, *first.curve]})
    assert records.curve(longer) == records.curve(first)
    assert records.curve(first.model_copy(update={"curve": [untrained]}))[0][0] == 0


def test_the_best_trial_is_drawn_last_and_has_the_best_colour(drawn):
    assert drawn["trials"][-1]["tone"] == 0.0
    tones = [one["tone"] for one in drawn["trials"] if one["tone"] is not None]
    assert max(tones) == 1.0
    assert all(0 <= tone <= 1 for tone in tones)


def test_what_failed_has_no_colour_and_no_curve(drawn):
    failed = next(one for one in drawn["trials"] if one["status"] == "failed")
    assert (failed["tone"], failed["value"], failed["curve"]) == (None, None, [])


def test_the_band_is_the_noise_floor_above_the_best(records, drawn):
    low, high = drawn["curves"]["band"]
    assert low == pytest.approx(records.verdict.contenders[0].mean, rel=1e-6)
    assert high - low == pytest.approx(records.verdict.floor, abs=1e-6)


def test_mixtures_of_three_domains_are_points_of_a_triangle(records, drawn):
    ternary = drawn["ternary"]
    assert tuple(ternary["domains"]) == DOMAINS
    assert all(sum(point) == pytest.approx(1.0, abs=2e-3) for point in ternary["points"].values())
    assert (ternary["surface"], ternary["optimum"]) == ([], None)
    fitted = figures_of(dataclasses.replace(records, surface=law_surface()))["ternary"]
    assert fitted["optimum"] == [0.13, 0.56, 0.31]
    assert len(fitted["surface"]) == 231


def test_other_numbers_of_domains_have_no_triangle(records):
    two = [one.model_copy(update={"settings": {"mixture.weights": {"a": 0.5, "b": 0.5}}}) for one in records.results]
    assert figures_of(dataclasses.replace(records, results=two))["ternary"] is None
