import math

import pytest
from simulated_sweep import objective, sweep, trial

from rayllm.tune.significance import judge
from rayllm.tune.significance_config import SignificanceConfig

CONFIG = SignificanceConfig()
NO_FRESH = SignificanceConfig(leaders=0)
NOISE = 0.01
CANDIDATES = 16


def rates(effect: float, sweeps: int, config: SignificanceConfig, replicates: int = 1) -> tuple[float, float]:
    """Share of simulated sweeps that name the planted trial, and share that name another."""
    planted = rightly = wrongly = 0
    for seed in range(sweeps):
        true = [2.0] * (1 + CANDIDATES)
        planted = 1 + seed % CANDIDATES
        true[planted] -= effect * NOISE
        results, verdict, _ = sweep(true, NOISE, seed, config, replicates)
        if verdict.kind == "winner":
            named = next(one.settings["lr"] for one in results if one.group == verdict.best)
            rightly += named == planted and effect > 0
            wrongly += named != planted or effect == 0
    return rightly / sweeps, wrongly / sweeps


def test_of_twenty_sweeps_identical_settings_name_none_and_a_planted_better_one_is_named(tell):
    _, false_names = rates(0.0, 20, CONFIG)
    named, wrong = rates(5.0, 20, CONFIG)
    sweeps = f"20 of {CANDIDATES} trials"
    tell("error rates of verdicts", sweeps=sweeps, settings="identical", named=f"{false_names:.1%}")
    shares = {"named": f"{named:.1%}", "another_named": f"{wrong:.1%}"}
    tell("error rates of verdicts", sweeps=sweeps, settings="one better by 5 sd", **shares)
    assert false_names == 0
    assert named == 1


@pytest.mark.slow
@pytest.mark.parametrize(("config", "replicates"), [(CONFIG, 1), (NO_FRESH, 2), (NO_FRESH, 3)])
def test_error_rates_over_many_sweeps_are_what_was_asked_for(config, replicates, tell):
    found = {effect: rates(effect, 500, config, replicates) for effect in (0.0, 2.0, 4.0, 6.0)}
    sweeps = f"leaders {config.leaders}, seeds {config.seeds if config.leaders else replicates}"
    for effect, (named, wrong) in found.items():
        shares = {"named": f"{named:.1%}", "another_named": f"{wrong:.1%}"}
        tell("error rates of verdicts", sweeps=sweeps, settings=f"one better by {effect:.0f} sd", **shares)
    assert all(wrong <= allowed(config.level, 500) for _, wrong in found.values())
    assert found[6.0][0] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(("config", "replicates"), [(CONFIG, 1), (NO_FRESH, 2), (NO_FRESH, 3)])
@pytest.mark.parametrize("tied", [2, 3])
def test_of_settings_that_are_as_good_far_ahead_of_the_rest_one_is_seldom_named(config, replicates, tied, tell):
    true = [2.0] * 6 + [1.9] * tied
    named = sum(sweep(true, NOISE, seed, config, replicates)[1].kind == "winner" for seed in range(1000))
    settings, sweeps = f"{tied} tied far ahead", f"leaders {config.leaders}"
    tell("error rates of verdicts", sweeps=sweeps, settings=settings, named=f"{named / 1000:.1%}")
    assert named / 1000 <= allowed(config.level, 1000)


def allowed(level, sweeps):
    """The level, and three standard errors of a share of this many sweeps."""
    return level + 3 * math.sqrt(level * (1 - level) / sweeps)


def test_without_replicates_no_floor_is_known_and_none_is_named():
    verdict = judge([trial(0, {}, 2.0), trial(1, {"lr": 1}, 1.0)], objective, NO_FRESH, {}, seed=0)
    assert (verdict.kind, verdict.floor, verdict.trial) == ("unknown", None, 1)
    assert verdict.sentence == "No winner: no noise floor is known; trial 1 is lowest, 1.0000."
    assert "two seeds" in verdict.notes[0]


def test_replicates_that_are_all_equal_are_no_proof():
    results = [trial(n, {"lr": n // 2, "seed": n % 2}, 2.0 - n // 2) for n in range(4)]
    verdict = judge(results, objective, NO_FRESH, {}, seed=0)
    assert verdict.kind == "unknown"
    assert "the seed does not reach the trials" in verdict.notes[0]


def replicated(*groups: list[float]):
    """Trials of settings 0, 1, ... with these values over seeds."""
    settings = [
        ({"lr": lr, "seed": seed}, value) for lr, values in enumerate(groups) for seed, value in enumerate(values)
    ]
    return [trial(number, one, value) for number, (one, value) in enumerate(settings)]


def baseline_of(results):
    return {results[0].group: "run file"}


def test_a_winner_clears_the_baseline_and_the_next_best_and_the_sentence_says_so():
    results = replicated([2.0, 2.01], [1.5, 1.51], [1.8, 1.81])
    verdict = judge(results, objective, NO_FRESH, baseline_of(results), seed=0)
    assert (verdict.kind, verdict.trial, verdict.degrees) == ("winner", 2, 3)
    assert verdict.sd == pytest.approx(0.01 / math.sqrt(2))
    assert verdict.floor == pytest.approx(3.1824 * 0.01 / math.sqrt(2), rel=1e-4)  # t of 3 degrees, two means of two
    assert [lead.lead for lead in verdict.leads] == pytest.approx([0.3, 0.5])
    assert all(lead.clear for lead in verdict.leads)
    assert verdict.sentence == (
        "Trial 2 wins: 1.5050 over 2 seeds, against trial 4 with 1.8050 and the baseline (run file, trial 0) "
        "with 2.0050; noise floor 0.023."
    )


def test_leaders_that_cannot_be_told_apart_are_tied_though_both_beat_the_baseline():
    results = replicated([2.0, 2.01], [1.5, 1.51], [1.505, 1.515])
    verdict = judge(results, objective, NO_FRESH, baseline_of(results), seed=0)
    assert verdict.kind == "tied"
    assert verdict.sentence == (
        "No winner: trial 2 with 1.5050 and trial 4 with 1.5100 are tied, with a noise floor of 0.023; "
        "trial 2 is better than the baseline (run file, trial 0) with 2.0050."
    )


def test_a_baseline_in_front_is_not_a_winner():
    results = replicated([1.0, 1.01], [1.5, 1.51])
    verdict = judge(results, objective, NO_FRESH, baseline_of(results), seed=0)
    assert verdict.kind == "baseline"
    assert verdict.sentence.startswith(
        "No winner: nothing that was tried is better than the baseline (run file, trial 0)"
    )


def test_settings_that_fail_now_and_then_cannot_win():
    results = replicated([2.0, 2.01], [1.5, 1.51], [1.8, 1.81])
    crashed = trial(6, {"lr": 1, "seed": 9}, 0.0, status="failed", metrics={}, error="diverged")
    verdict = judge([*results, crashed], objective, NO_FRESH, baseline_of(results), seed=0)
    assert (verdict.kind, verdict.trial) == ("winner", 4)
    assert "Of trial 2's replicates 1 failed." in verdict.notes


def test_stopped_trials_are_not_compared():
    results = replicated([2.0, 2.01], [1.8, 1.81])
    early = [trial(9 + n, {"lr": 7, "seed": n}, 1.0 + n / 100, status="stopped") for n in range(2)]
    assert judge([*results, *early], objective, NO_FRESH, baseline_of(results), seed=0).trial == 2


def test_nothing_wins_over_a_baseline_that_was_not_trained_to_its_end():
    results = replicated([2.0, 2.01], [1.5, 1.51], [1.8, 1.81])
    early = trial(9, {"lr": 7}, 3.0, status="stopped")
    baselines = baseline_of(results) | {early.group: "natural"}
    verdict = judge([*results, early], objective, NO_FRESH, baselines, seed=0)
    assert (verdict.kind, verdict.trial) == ("tied", 2)
    assert verdict.sentence == "No winner: trial 2, 1.5050, leads, but was not compared with the baseline (natural)."
    assert verdict.notes == ["No trial of the baseline (natural) came to its end: nothing was compared with it."]


def test_unequal_tokens_are_said():
    results = [*replicated([2.0, 2.01]), trial(8, {"lr": 3}, 1.0, tokens=2000)]
    notes = judge(results, objective, NO_FRESH, baseline_of(results), seed=0).notes
    assert notes == ["The contenders were not trained on equal tokens: 1,000 to 2,000."]


def test_domains_that_got_worse_than_noise_explains_are_told():
    def with_code(result, code):
        return result.model_copy(update={"metrics": result.metrics | {"bits_per_byte/code": code}})

    results = replicated([2.0, 2.01], [1.5, 1.51])
    forgot = [with_code(one, 3.0 + one.seed / 100 + (one.settings["lr"] == 1)) for one in results]
    changes = judge(forgot, objective, NO_FRESH, baseline_of(results), seed=0).changes
    assert {change.metric: change.worse for change in changes} == {
        "bits_per_byte/english": False,
        "bits_per_byte/code": True,
    }


def test_luck_in_the_picking_does_not_count():
    """A leader that was lucky in the screening is judged by its fresh seeds alone."""
    results, verdict, _ = sweep([2.0] * 9, NOISE, 5, CONFIG)
    picked = min(results[:9], key=objective)
    mean = next(one.mean for one in verdict.contenders if one.group == picked.group)
    assert mean > objective(picked)
    assert picked.trial not in next(one.trials for one in verdict.contenders if one.group == picked.group)
