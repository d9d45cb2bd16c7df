import json

import pytest
from made_results import OBJECTIVE, result

from rayllm.tune.objective import Objective
from rayllm.tune.ranking import rank
from rayllm.tune.results import Point
from rayllm.tune.tables import to_json, to_markdown

MEAN = Objective.parse(OBJECTIVE, ["code"])


def test_the_table_shows_settings_scores_and_causes():
    ranked = rank(
        [
            result(0, 2.5),
            result(3, 1.5, status="stopped", curve=[Point(step=7, tokens=64, metrics={OBJECTIVE: 1.5})]),
            result(1, error="a|b\ntrace"),
            result(2, 1.25, settings={"lr": ["x", "y"], "w": {"a": 1 / 3}}, tokens=1024, cpus=2),
        ],
        MEAN.of,
    )
    assert to_markdown(ranked, MEAN).splitlines() == [
        "| rank | trial | mean_bits_per_byte | bits_per_byte/code | lr | w | tokens | seconds | device s | status |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        "| 1 | 2 | 1.2500 | 2.2500 | x, y | a 0.333 | 1,024 | 3 | 6 | finished |",
        "| 2 | 0 | 2.5000 | 3.5000 | as in the run file | as in the run file | 0 | 3 | 3 | finished |",
        "| 3 | 3 | 1.5000 | 2.5000 | as in the run file | as in the run file | 0 | 3 | 3 | stopped at step 7 |",
        "| 4 | 1 |  |  | as in the run file | as in the run file | 0 | 3 | 3 | failed: a\\|b |",
    ]


def test_trials_that_compare_replies_show_their_accuracy_too():
    metrics = {OBJECTIVE: 2.0, "accuracy/code": 0.75, "bits_per_byte/code": 2.0, "margin/code": 0.5}
    header, _, row = to_markdown([result(0, 2.0).model_copy(update={"metrics": metrics})], MEAN).splitlines()
    shown = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert (shown["bits_per_byte/code"], shown["accuracy/code"]) == ("2.0000", "0.7500")
    assert not any(name.startswith("margin") for name in shown)


def test_trials_cost_money_where_a_price_is_known():
    ranked = rank([result(0, 2.0, wall_s=1800.0, cpus=2.0), result(1, 3.0, wall_s=3600.0, cpus=0.5)], MEAN.of)
    lines = to_markdown(ranked, MEAN, per_hour=2.5).splitlines()
    assert [line.split("|")[-3].strip() for line in lines] == ["price", "---", "2.50", "1.25"]
    found = json.loads(json.dumps(to_json(ranked, MEAN, per_hour=2.5)))
    assert (found["price"], [row["price"] for row in found["trials"]]) == (3.75, [2.5, 1.25])


def test_the_ranking_is_plain_json():
    value = json.loads(
        json.dumps(to_json(rank([result(0, 2.0), result(1, 1.0), result(2, error="died")], MEAN.of), MEAN))
    )
    assert value["best"] == 1
    assert [row["trial"] for row in value["trials"]] == [1, 0, 2]
    assert [row["value"] for row in value["trials"]] == [1.0, 2.0, None]
    assert value["objective"] == OBJECTIVE
    assert value["device_s"] == pytest.approx(9.6)
