import math

import pytest

from rayllm.report.formats import change, count, data_size, duration, fixed, join_words, percent, significant


def plain(text: str) -> str:
    return text.replace("\u00a0", " ").replace("\u2212", "-").replace("\u2013", "none")


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.23456, "1.235"), (-0.5, "-0.500"), (252.83, "252.8"), (5206.9, "5,207"), (None, "none"), (math.inf, "∞")],
)
def test_decimals_shrink_as_numbers_grow(value: float | None, text: str) -> None:
    assert plain(fixed(value)) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999_999, "999,999"), (3_420_000, "3.42 M"), (25e6, "25.0 M"), (1.2e12, "1.20 T")]
)
def test_counts_are_exact_below_a_million(value: float, text: str) -> None:
    assert plain(count(value)) == text


@pytest.mark.parametrize(("value", "text"), [(812, "812 B"), (96_000, "96.0 kB"), (1_420_000, "1.42 MB")])
def test_sizes_are_decimal(value: float, text: str) -> None:
    assert plain(data_size(value)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (59.4, "59 s"),
        (59.7, "1 min 00 s"),
        (192, "3 min 12 s"),
        (7_500, "2 h 05 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_time_spans_take_two_units_at_most(seconds: float, text: str) -> None:
    assert plain(duration(seconds)) == text


@pytest.mark.parametrize(
    ("before", "after", "text"), [(4, 1, "-75.0 %"), (2, 3, "+50.0 %"), (1, 0.99999, "0.0 %"), (None, 1, "none")]
)
def test_changes_carry_their_sign_unless_they_round_to_nothing(before: float | None, after: float, text: str) -> None:
    assert plain(change(before, after)) == text


def test_small_numbers_and_lists() -> None:
    assert significant(0.0003) == "0.0003"
    assert plain(percent(0.1234, 1)) == "12.3 %"
    assert join_words(["a", "b", "c"]) == "a, b and c"
    assert join_words(["a"]) == "a"
