"""Merges learned on arrays are those of the plain algorithm."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from rayllm.tokenizer.superwords.merges import BORDER, learn_merges

pieces = st.lists(st.lists(st.integers(0, 3), max_size=12), max_size=8)
FIRST = 4


def bordered(parts: list[list[int]]) -> np.ndarray:
    flat = [BORDER]
    for part in parts:
        flat += [*part, BORDER]
    return np.array(flat, np.int32)


def plain(parts: list[list[int]], num_merges: int, min_frequency: int, allow=lambda left, right: True):
    """Byte pair encoding as in the paper: count all, merge the best, from the left."""
    parts, merges, refused = [list(part) for part in parts], [], set()
    while len(merges) < num_merges:
        counts = Counter(pair for part in parts for pair in pairwise(part))
        known = [(-count, pair) for pair, count in counts.items() if count >= min_frequency and pair not in refused]
        if not known:
            return merges
        pair = min(known)[1]
        if not allow(*pair):
            refused.add(pair)
            continue
        for part in parts:
            at = 0
            while at < len(part) - 1:
                if (part[at], part[at + 1]) == pair:
                    part[at : at + 2] = [FIRST + len(merges)]
                at += 1
        merges.append(pair)
    return merges


@given(parts=pieces, num_merges=st.integers(0, 12), min_frequency=st.integers(1, 3))
def test_the_merges_are_those_of_counting_everything_anew(parts, num_merges, min_frequency):
    found = learn_merges(
        bordered(parts), next_id=FIRST, num_merges=num_merges, min_frequency=min_frequency, allow=lambda *_: True
    )
    assert found == plain(parts, num_merges, min_frequency)


@given(parts=pieces, refused=st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_a_refused_pair_is_never_merged_and_the_rest_goes_on(parts, refused):
    def allow(left: int, right: int) -> bool:
        return (left, right) not in refused

    found = learn_merges(bordered(parts), next_id=FIRST, num_merges=8, min_frequency=1, allow=allow)
    assert not set(found) & refused
    assert found == plain(parts, 8, 1, allow)


@pytest.mark.parametrize("length", range(2, 18))
def test_runs_of_one_token_merge_from_the_left(length):
    parts = [[0] * length]
    found = learn_merges(bordered(parts), next_id=FIRST, num_merges=5, min_frequency=1, allow=lambda *_: True)
    assert found == plain(parts, 5, 1)


def test_nothing_is_learned_from_nothing():
    for tokens in ([BORDER], [BORDER, 1, BORDER], []):
        assert not learn_merges(
            np.array(tokens, np.int32), next_id=FIRST, num_merges=5, min_frequency=1, allow=lambda *_: True
        )


def test_the_merges_are_those_of_the_trainer_of_hugging_face():
    text = " ".join(__import__("textwrap").__doc__ or "") + (__import__("argparse").__doc__ or "") * 3
    lines = [line for line in text.split("\n") if line]
    alphabet = sorted(set("".join(lines)))
    ids = {char: index for index, char in enumerate(alphabet)}
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + 150, min_frequency=2, show_progress=False)
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    theirs.train_from_iterator(lines, trainer)
    names = [*alphabet]
    found = learn_merges(
        bordered([[ids[char] for char in line] for line in lines]),
        next_id=len(alphabet),
        num_merges=150,
        min_frequency=2,
        allow=lambda *_: True,
    )
    for left, right in found:
        names.append(names[left] + names[right])
    assert names == [theirs.id_to_token(index) for index in range(theirs.get_vocab_size())]
