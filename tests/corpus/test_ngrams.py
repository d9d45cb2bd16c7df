import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayllm.corpus.overlap.ngrams import blocks, mix, ngram_hashes, split_words

MASK = (1 << 64) - 1
WEIGHT = 6364136223846793005
TEXTS = st.text(alphabet=st.sampled_from("aAbZ9_ -.\n\té\u2019ßΩя中文กก\ud800\U0001f600\U00020000"), max_size=40)


def mixed(value: int) -> int:
    """Splitmix64's finaliser, in whole numbers of Python."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


def word_hash(word: bytes) -> int:
    """The hash of a word: eight bytes at a time, and of more than 64 bytes by BLAKE2."""
    if len(word) > 64:
        return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")
    value = 0
    for start in range(0, len(word), 8):
        value = mixed(value ^ int.from_bytes(word[start : start + 8], "little"))
    return value


def strings(text: str) -> list[str]:
    words = split_words([text])
    return [word.decode() for word in words.strings(0, len(words.hashes))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("don't  stop\n\n3.14", ["don", "t", "stop", "3", "14"]),
        ("def foo_bar(x):\n\treturn x", ["def", "foo", "bar", "x", "return", "x"]),
        ("\u201cCaf\u00e9\u201d \u2014 na\u00efve, \u0130stanbul", ["cafe", "naive", "istanbul"]),
        (
            "\u043f\u0440\u0438\u0432\u0435\u0442, \u041c\u0438\u0440",
            ["\u043f\u0440\u0438\u0432\u0435\u0442", "\u043c\u0438\u0440"],
        ),
        ("a\u4e2d\u6587b \u3042", ["a", "\u4e2d", "\u6587", "b", "\u3042"]),
        ("\ud55c\uad6d\uc5b4 \ub9d0", ["\ud55c\uad6d\uc5b4", "\ub9d0"]),
        ("\uff26\uff35\uff2c\uff2c", ["full"]),
        ("a\ud800b \x01 c", ["a", "b", "c"]),
        ("", []),
        ("?! \u2026", []),
    ],
)
def test_words_are_runs_of_letters_and_digits_without_case_and_accents(text: str, words: list[str]) -> None:
    assert strings(text) == words


def test_latin_words_are_those_that_a_regular_expression_finds(shared_data) -> None:
    text = (shared_data / "text" / "pride_and_prejudice.txt").read_text(encoding="utf-8")[:200_000]
    ascii_text = text.encode("ascii", "replace").decode()
    assert strings(ascii_text) == re.findall(r"[^\W_]+", ascii_text.lower())


def test_hashes_are_those_of_plain_arithmetic() -> None:
    long = "sixty-four bytes: " + "x" * 64 + ", one more: " + "x" * 65
    text = f"a word, twelve letters: incorporates; {long} and \u044f\u0437\u044b\u043a"
    words = split_words([text])
    found = words.strings(0, len(words.hashes))
    assert [int(value) for value in words.hashes] == [word_hash(word) for word in found]
    for n in (1, 2, 3, 5, 7):
        runs = [found[place : place + n] for place in range(len(found) - n + 1)]
        expected = []
        for run in runs:
            total = 0
            for word in run:
                total = (total * WEIGHT + word_hash(word)) & MASK
            expected.append(mixed(total))
        assert ngram_hashes(words.hashes, n).tolist() == expected


def test_long_words_differ_by_their_last_letter() -> None:
    hashes = split_words(["x" * 100_000 + "a", "x" * 100_000 + "b", "X" * 100_000 + "a"]).hashes
    assert hashes[0] != hashes[1]
    assert hashes[0] == hashes[2]


def test_fewer_words_than_a_run_give_none() -> None:
    assert len(ngram_hashes(np.arange(4, dtype=np.uint64), 5)) == 0
    assert len(ngram_hashes(np.arange(5, dtype=np.uint64), 5)) == 1


@given(st.lists(TEXTS, max_size=6))
def test_each_text_has_the_words_that_it_has_alone(texts: list[str]) -> None:
    words = split_words(texts)
    assert words.bounds[0] == 0
    assert words.bounds[-1] == len(words.hashes)
    for index, text in enumerate(texts):
        alone = split_words([text])
        first, stop = words.bounds[index], words.bounds[index + 1]
        assert words.hashes[first:stop].tolist() == alone.hashes.tolist()
        assert words.strings(first, stop) == alone.strings(0, len(alone.hashes))


@given(TEXTS, TEXTS)
def test_the_place_of_a_word_is_that_in_the_original(before: str, text: str) -> None:
    words = split_words([before, text])
    for word in range(words.bounds[1], words.bounds[2]):
        start, stop = words.span(1, word, word + 1)
        assert strings(text[start:stop]) == [words.strings(word, word + 1)[0].decode()]


def test_mixing_loses_no_number() -> None:
    values = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(mix(values))) == len(values)
    assert int(mix(values)[12345]) == mixed(12345)


@given(st.lists(st.text("ab", max_size=9), max_size=20), st.integers(1, 12))
def test_blocks_cover_all_texts_in_order(texts: list[str], chars: int) -> None:
    ranges = list(blocks(texts, chars))
    assert [index for first, stop in ranges for index in range(first, stop)] == list(range(len(texts)))
    assert all(stop - first == 1 or sum(map(len, texts[first:stop])) <= chars for first, stop in ranges)


def test_hashes_are_equal_in_another_process_whatever_its_hash_seed() -> None:
    text = "One two \u4e2d th\u00e9 end"
    code = f"from rayllm.corpus.overlap.ngrams import split_words; print(split_words([{text!a}]).hashes.tolist())"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{split_words([text]).hashes.tolist()}\n"}
