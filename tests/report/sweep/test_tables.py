from dataclasses import replace

import pytest
from sweep_records import DOMAINS, mixture_sweep

from rayllm.report.formats import MISSING, duration
from rayllm.report.sweep.tables import changes_table, contenders_table, cost_table, trials_table


@pytest.fixture(scope="module")
def records():
    return mixture_sweep()


def column(table, label):
    place = next(index for index, one in enumerate(table.columns) if one.full_label == label)
    return [row[place] for row in table.rows]


def test_every_trial_shows_every_domain_and_its_cost(records):
    table = trials_table(records)
    for name in DOMAINS:
        cells = column(table, f"Bits per byte, {name}")
        assert [cell.order for cell in cells] == [one.metrics.get(f"bits_per_byte/{name}") for one in records.results]
    assert [cell.order for cell in column(table, "Cost and start, Device time")] == [
        one.device_s for one in records.results
    ]
    assert [cell.text for cell in column(table, "")][-1] == "failed"


def test_contenders_stand_with_their_leads_against_the_noise(records):
    table, verdict = contenders_table(records), records.verdict
    assert len(table.rows) == len(verdict.contenders)
    assert [cell.text for cell in column(table, "Noise")][1:] == [f"{lead.margin:.4f}" for lead in verdict.leads]


def test_domains_are_held_against_the_baseline(records):
    table = changes_table(records)
    assert table is not None
    assert [cell.text for cell in column(table, "Domain")] == list(DOMAINS)
    assert {cell.text for cell in column(table, "")} <= {"worse", "better", "within noise"}


def test_costs_add_up(records):
    table = cost_table(records)
    numbers = [int(cell.text) for cell in column(table, "Number")]
    assert numbers[-1] == sum(numbers[:-1]) == len(records.results)
    results = [one.model_copy(update={"start_s": 20.0, "restarts_s": 40.0}) for one in records.finished]
    table = cost_table(replace(records, results=results))
    assert column(table, "Starts, summed")[-1].text == duration(60.0 * len(results))
    assert column(table, "Median start")[-1].text == duration(20.0)


def test_trials_that_are_forks_show_what_they_cost_of_a_run(records):
    assert "Cost and start, Of a run" not in [one.full_label for one in trials_table(records).columns]
    first = records.results[0].trial
    cells = column(trials_table(replace(records, shares={first: 0.2})), "Cost and start, Of a run")
    assert [cell.text for cell in cells[:2]] == ["20\u00a0%", MISSING]


def test_trials_that_begin_from_a_trained_model_show_what_they_have_forgotten_of_it(records):
    assert "Forgotten" not in [one.full_label for one in trials_table(records).columns]
    first, *others = records.results
    before = first.curve[0].metrics | {"bits_per_byte/math": first.metrics["bits_per_byte/math"] - 0.25}
    begun = first.curve[0].model_copy(update={"step": 0, "metrics": before})
    first = first.model_copy(update={"curve": [begun, *first.curve]})
    table = trials_table(replace(records, results=[first, *others], begun=0))
    assert [cell.text for cell in column(table, "Forgotten")[:2]] == ["+0.2500 math", MISSING]
    assert "since step 0" in (table.note or "")


def test_a_price_is_shown_where_it_is_known(records):
    priced = replace(records, per_hour=360.0)
    prices = [cell.order for cell in column(trials_table(priced), "Cost and start, Price")]
    assert prices == [pytest.approx(one.device_s / 10) for one in records.results]
    assert column(cost_table(priced), "Price")[-1].order == pytest.approx(sum(prices))
    assert "Price" not in [one.label for one in cost_table(records).columns]
