import json

import pytest
from made_results import OBJECTIVE, result

from rayllm.tune.forgetting import changes, in_words, most_forgotten
from rayllm.tune.objective import Objective
from rayllm.tune.results import Point
from rayllm.tune.tables import to_json, to_markdown

MEAN = Objective.parse(OBJECTIVE, ["code", "text"])


def trained(number, before, after, first=0):
    """A trial with bits per byte of two domains at its first validation and at its last."""
    curve = [
        Point(step=step, tokens=8 * step, metrics={f"bits_per_byte/{name}": bits for name, bits in metrics.items()})
        for step, metrics in ((first, before), (20, after))
    ]
    metrics = curve[-1].metrics | {OBJECTIVE: sum(after.values()) / 2}
    return result(number, 1.0, curve=curve).model_copy(update={"metrics": metrics})


FORGETS = trained(0, {"code": 2.5, "text": 2.0}, {"code": 2.0, "text": 2.125})
LEARNS = trained(1, {"code": 2.5, "text": 2.0}, {"code": 2.25, "text": 1.875})
LATE = trained(2, {"code": 2.5, "text": 2.0}, {"code": 2.25, "text": 2.5}, first=5)


def test_each_domain_is_held_against_the_model_that_the_trial_began_from():
    assert changes(FORGETS, 0) == {"code": -0.5, "text": 0.125}
    assert most_forgotten(FORGETS, 0) == ("text", 0.125)
    assert in_words(most_forgotten(LEARNS, 0)) == "none"
    assert changes(trained(0, {"code": 2.5, "text": 2.0}, {"code": 2.0, "text": 2.0}, first=8), 8)["code"] == -0.5


@pytest.mark.parametrize("unknown", [LATE, result(3, error="died")])
def test_nothing_is_said_of_a_trial_whose_beginning_was_not_validated(unknown):
    assert changes(unknown, 0) == {}
    assert in_words(most_forgotten(unknown, 0)) == ""


def test_the_tables_of_a_sweep_over_a_trained_model_say_what_was_forgotten():
    rows = [line.split(" | ") for line in to_markdown([FORGETS, LEARNS, LATE], MEAN, begun=0).splitlines()]
    place = rows[0].index("forgotten")
    assert [row[place] for row in rows[2:]] == ["+0.1250 text", "none", ""]
    assert "forgotten" not in to_markdown([FORGETS], MEAN)
    found = json.loads(json.dumps(to_json([FORGETS, LATE], MEAN, begun=0)))["trials"]
    assert found[0]["change_by_domain"] == {"code": -0.5, "text": 0.125}
    assert "change_by_domain" not in found[1]
