import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rayllm.core.errors import ConfigError
from rayllm.data.mixing.repetition import SLACK, redistribute

sizes = st.lists(st.floats(1, 1e6), min_size=2, max_size=8)


def unimax(tokens, budget, max_epochs):
    """Algorithm 1 of Chung et al. 2023: from the smallest domain up, an equal part of what is left, or the cap."""
    left, share = budget, {}
    order = sorted(range(len(tokens)), key=lambda i: tokens[i])
    for place, i in enumerate(order):
        share[i] = min(left / (len(tokens) - place), max_epochs * tokens[i])
        left -= share[i]
    return [share[i] / budget for i in range(len(tokens))]


def by_name(caps):
    return {f"d{i}": cap for i, cap in enumerate(caps)}


@settings(deadline=None)
@given(sizes, st.floats(0.05, 0.9), st.floats(0.5, 8))
def test_uniform_weights_become_the_unimax_mixture(tokens, fill, max_epochs):
    budget = fill * max_epochs * sum(tokens)
    uniform = [1 / len(tokens)] * len(tokens)
    found = redistribute([uniform], [[budget / t for t in tokens]], by_name([max_epochs] * len(tokens)))
    assert found.shares[0] == pytest.approx(unimax(tokens, budget, max_epochs), rel=5e-3)


@settings(deadline=None)
@given(
    st.integers(2, 6).flatmap(
        lambda k: st.lists(st.lists(st.floats(0.01, 1), min_size=k, max_size=k), min_size=1, max_size=5)
    ),
    st.data(),
)
def test_caps_are_kept_by_moving_no_more_than_they_ask(weights, data):
    shares = np.asarray(weights) / np.sum(weights, axis=1, keepdims=True)
    parts, k = shares.shape
    full = np.outer(data.draw(st.lists(st.floats(0.1, 5), min_size=parts, max_size=parts)), np.ones(k))
    caps = np.asarray(data.draw(st.lists(st.floats(0.2, 20), min_size=k, max_size=k)))
    assume(caps.sum() > 1.1 * full[:, 0].sum())
    found, held = redistribute(shares.tolist(), full.tolist(), by_name(caps))
    read = (np.asarray(found) * full).sum(axis=0)
    assert np.sum(found, axis=1) == pytest.approx(np.ones(parts))
    assert (read <= caps * (1 + 1e-9)).all()
    for domain in held:  # whoever lost something is at its cap
        assert read[domain] >= caps[domain] * (1 - 60 * SLACK)
    if not held:
        assert np.allclose(found, shares)
    free = [i for i in range(k) if i not in held]
    ratios = np.asarray(found)[:, free] / shares[:, free]
    assert np.allclose(ratios, ratios[:, :1])  # the others keep their proportions in every part


def test_a_domain_that_a_part_leaves_out_stays_out():
    found = redistribute([[0.5, 0.5, 0.0], [0.4, 0.3, 0.3]], [[2, 1, 1], [2, 1, 1]], by_name([1.0, math.inf, math.inf]))
    assert found.shares[0][2] == 0
    assert found.shares[0][0] + found.shares[1][0] == pytest.approx(0.5, rel=1e-3)


def test_weights_below_their_caps_are_left_as_they_are():
    shares = [[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]
    found = redistribute(shares, [[1, 1, 1]] * 2, by_name([4, 4, math.inf]))
    assert np.allclose(found.shares, shares)
    assert not found.held


def test_a_run_that_is_too_long_for_its_caps_is_refused_with_the_domains():
    with pytest.raises(ConfigError, match="d0 would be read more than 2 times") as caught:
        redistribute([[1.0, 0.0], [0.5, 0.5]], [[3, 1], [3, 1]], by_name([2, math.inf]))
    assert "train on fewer tokens" in caught.value.fix
