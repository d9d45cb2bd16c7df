import math

import pytest
from made_results import result

from rayllm.core.errors import ConfigError, DataError
from rayllm.tune.objective import Objective
from rayllm.tune.results import Point

DOMAINS = ["english", "web-v2.1", "web"]
METRICS = {
    "mean_bits_per_byte": 2.0,
    "bits_per_byte/english": 1.0,
    "bits_per_byte/web-v2.1": 2.0,
    "bits_per_byte/web": 3.0,
}
REFERENCE = [
    Point(step=step, tokens=tokens, metrics={f"bits_per_byte/{name}": value for name in DOMAINS})
    for step, tokens, value in ((20, 200, 1.0), (10, 100, 2.0))
]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("mean_bits_per_byte", 2.0),
        ("bits_per_byte/web-v2.1", 2.0),
        ("max(bits_per_byte)", 3.0),
        ("mean(bits_per_byte)", 2.0),
        ("min(bits_per_byte/web, bits_per_byte/english)", 1.0),
        ("0.25 * bits_per_byte/web-bits_per_byte/web-v2.1", -1.25),
        ("(bits_per_byte/web + 2 * bits_per_byte/english) / 5", 1.0),
        ("-mean(bits_per_byte/web, 5)", -4.0),
        ("mean(excess)", 0.5),
        ("max(excess/english, excess/web)", 1.5),
    ],
)
def test_expressions_have_the_value_that_they_say(expression, value):
    assert Objective.parse(expression, DOMAINS, REFERENCE).value(METRICS, 150) == pytest.approx(value)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("bits_per_byte/englsh", "did you mean `bits_per_byte/english`"),
        ("mean_bit_per_byte", "did you mean `mean_bits_per_byte`"),
        ("bits_per_byte/code", "use one of mean_bits_per_byte, mean_loss, bits_per_byte/english"),
        ("__import__('os').system('true')", "neither a metric nor a number"),
        ("mean_loss.__class__", "neither a metric nor a number"),
        ("max(x for x in bits_per_byte)", "neither a metric nor a number"),
        ("mean_loss ** 2", "neither a metric nor a number"),
        ("mean_loss / mean_loss", "divides by what is no number"),
        ("mean_loss / 0", "divides by what is no number"),
        ("mean()", "needs what to take it of"),
        ("1 + 1", "names no metric"),
        ("mean_loss mean_loss", "it is no expression"),
        ("True", "neither a metric"),
        ("_metric_0", "no metric '_metric_0'"),
    ],
)
def test_what_is_no_objective_is_refused_with_the_reason(expression, words):
    with pytest.raises(ConfigError) as caught:
        Objective.parse(expression, DOMAINS)
    assert words in str(caught.value)
    assert caught.value.where == "tune.objective"


def test_the_excess_is_taken_at_as_many_tokens():
    objective = Objective.parse("excess/web", DOMAINS, REFERENCE)
    assert [objective.value(METRICS, tokens) for tokens in (50, 100, 175, 200, 205)] == [1.0, 1.0, 1.75, 2.0, 2.0]
    assert math.isnan(objective.at(METRICS, 300))  # which fails that trial, and no other
    with pytest.raises(DataError, match="ends at 200 tokens"):
        objective.value(METRICS, 300)
    with pytest.raises(DataError, match="is not known"):
        Objective.parse("excess/web", DOMAINS).value(METRICS, 100)


def test_only_an_excess_needs_a_reference():
    assert Objective.parse("mean_loss + max(excess)", DOMAINS).needs_reference
    assert not Objective.parse("mean_loss + max(bits_per_byte)", DOMAINS).needs_reference


def test_metrics_that_a_validation_lacks_are_named():
    objective = Objective.parse("excess/web + mean_loss", DOMAINS, REFERENCE)
    assert objective.missing(METRICS) == ["mean_loss"]
    with pytest.raises(DataError, match="no finite mean_loss"):
        objective.value(METRICS, 100)
    assert Objective.parse("mean_bits_per_byte", DOMAINS).of(result(0, 1.5)) == 1.5
    assert Objective.parse("mean_loss", DOMAINS).of(result(0, 1.5)) == float("inf")
