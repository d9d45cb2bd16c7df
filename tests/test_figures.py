"""What tests measured is seen after them, also where other processes ran them."""

import subprocess
import sys
from pathlib import Path

import pytest
from figures import Tell, render


def test_a_test_tells_its_figures(tell: Tell) -> None:
    tell("figures of a test", what="first", gap="1e-05")
    tell("figures of a test", what="the second", largest_gap=2)


@pytest.mark.parametrize("processes", [0, 2])
def test_tables_are_printed_however_many_processes_run(processes: int) -> None:
    test = f"{Path(__file__)}::{test_a_test_tells_its_figures.__name__}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"-n{processes}", test]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    at = next(number for number, line in enumerate(lines) if " figures of a test " in line)
    assert lines[at + 1 : at + 4] == [
        "what        gap    largest gap",
        "first       1e-05",
        "the second         2",
    ]


def test_a_table_has_the_columns_of_all_its_rows() -> None:
    assert render([{"a": "1"}, {"b_c": "22"}]) == ["a  b c", "1", "   22"]
