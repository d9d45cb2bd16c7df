"""As many rows as fit, as even as can be, never more than a rank has."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayllm.train.memory.micro_batch import back_off, choose_rows, even, rows_by_length
from tests.train.memory.test_estimate import MODEL, setting


@given(mine=st.integers(1, 200), fit=st.integers(0, 300), seq_len=st.integers(1, 64), enough=st.integers(1, 2000))
def test_rows_fit_and_need_no_more_micro_batches_than_the_most_that_fit(mine, fit, seq_len, enough):
    rows = choose_rows(mine, seq_len, enough, lambda count: count <= fit)
    most = max(1, min(mine, fit, enough // seq_len))
    assert 1 <= rows <= most
    assert -(-mine // rows) == -(-mine // most)


@pytest.mark.parametrize(("mine", "rows", "expected"), [(12, 8, 6), (8, 8, 8), (7, 3, 3), (10, 4, 4), (9, 5, 5)])
def test_micro_batches_are_even(mine, rows, expected):
    assert even(mine, rows) == expected


def test_longer_rows_get_fewer_of_them():
    one = setting()
    shapes = [(64, 256), (256, 64)]
    found = rows_by_length(one, shapes, 256, 150_000_000, base_bytes=0)
    assert found[64] > found[256] >= 1


def test_plenty_of_memory_is_bounded_by_what_a_rank_has():
    assert rows_by_length(setting(model=MODEL), [(64, 10)], 64, 10**12) == {64: 5}


def test_a_trial_backs_off_until_it_fits():
    tried = []

    def attempt(rows):
        tried.append(rows)
        if rows > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert back_off(32, attempt) == 4
    assert tried == [32, 16, 8, 4]
