import numpy as np
import pytest
from scipy.stats import dunnett, t

from rayllm.tune.noise import Noise, best_against_next, many_against_one, pooled_noise


def test_the_spread_is_pooled_by_degrees_of_freedom():
    noise = pooled_noise([[1.0, 3.0], [5.0, 5.0, 8.0], [9.0]])
    assert noise is not None
    assert noise == Noise(pytest.approx(np.sqrt((2.0 + 6.0) / 3)), degrees=3, groups=2)
    assert noise.error_of_lead(2, 2) == pytest.approx(noise.sd)
    assert noise.error_of_mean(4) == pytest.approx(noise.sd / 2)


def test_without_replicates_there_is_no_estimate():
    assert pooled_noise([[1.0], [2.0], []]) is None


def test_two_degrees_of_freedom_ask_for_a_far_larger_lead_than_many():
    assert best_against_next(0.05, 2) == pytest.approx(4.303, abs=1e-3)
    assert best_against_next(0.05, 1000) == pytest.approx(1.962, abs=1e-3)


def test_one_against_a_baseline_is_students_t():
    assert many_against_one(0.05, 4, (3,), 3) == pytest.approx(t.ppf(0.975, 4), rel=0.02)


def test_many_against_a_baseline_is_dunnetts_table():
    """Dunnett 1964, two-sided, 5 %: three treatments and a control, 12 degrees of freedom: 2.68."""
    assert many_against_one(0.05, 12, (4, 4, 4), 4) == pytest.approx(2.68, rel=0.01)


def test_the_simulated_quantile_agrees_with_scipy():
    rng = np.random.default_rng(3)
    groups = [rng.normal(0, 1, 3), rng.normal(-1.5, 1, 3), rng.normal(0.4, 1, 4)]
    noise = pooled_noise(groups)
    assert noise is not None
    p_value = dunnett(*groups[1:], control=groups[0], random_state=1).pvalue[0]
    lead = abs(groups[0].mean() - groups[1].mean()) / noise.error_of_lead(3, 3)
    assert many_against_one(float(p_value), noise.degrees, (3, 4), 3) == pytest.approx(lead, rel=0.03)
