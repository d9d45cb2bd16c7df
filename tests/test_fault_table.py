"""The table of faults is made of the reports of tests."""

import fault_table
import pytest

SUITE = """
import pytest

@pytest.mark.fault("P10", "a loss is not finite", "the step is skipped")
def test_slow(record_property):
    record_property("recovery_s", 7.25)

@pytest.mark.fault("P4", "a byte flipped", "the one before is taken")
@pytest.mark.parametrize("case", range(3))
def test_cases(case, record_property):
    record_property("recovery_s", 1.0 + case)
    assert case != 1

def test_other():
    pass
"""
CONFTEST = """
import fault_table

def pytest_collection_modifyitems(items):
    fault_table.declare(items)
"""
pytest_plugins = ["pytester"]


@pytest.mark.parametrize("processes", ["0", "1"])
def test_cases_of_a_fault_share_a_row_wherever_they_ran(pytester: pytest.Pytester, processes: str) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(SUITE)
    result = pytester.inline_run("-n", processes, "-p", "no:cacheprovider")
    reports = [report for report in result.getreports("pytest_runtest_logreport") if report.when == "call"]
    rows = fault_table.collect(reports)  # pyright: ignore[reportArgumentType]
    assert [promise for promise, _, _ in rows] == ["P4", "P10"]
    four, ten = rows.values()
    assert (four.passed, four.failed, sorted(four.recovery_s)) == (2, 1, [1.0, 2.0, 3.0])
    assert (ten.passed, ten.failed, ten.recovery_s) == (1, 0, [7.25])


def test_the_table_shows_the_span_of_times_and_what_failed() -> None:
    rows = {
        ("P4", "a byte flipped", "the one before is taken"): fault_table.Row(2, 1, [1.0, 3.0]),
        ("P10", "a loss is not finite", "the step is skipped"): fault_table.Row(1, 0, []),
    }
    assert fault_table.render(rows)[1:] == [
        "P4   a byte flipped        the one before is taken  2 ok, 1 FAILED  1.0 to 3.0 s",
        "P10  a loss is not finite  the step is skipped      1 ok",
    ]
    assert fault_table.render({}) == []
