"""How texts are cut into pieces."""

import pytest

from rayllm.tokenizer.patterns import PATTERNS, byte_level, superwords, words


def cut(pattern: str, text: str) -> list[str]:
    return [piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in byte_level(pattern).pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("gpt2", "I'll see  12345!\n", ["I", "'ll", " see", " ", " 12345", "!", "\n"]),
        ("cl100k", "I'LL see  12345!\n\n x", ["I", "'LL", " see", " ", " ", "123", "45", "!\n\n", " x"]),
        ("o200k", "CamelCase I'll a/b//\n", ["Camel", "Case", " I'll", " a", "/b", "//\n"]),
        ("superbpe", "on the 12345 days", ["on the ", "12", "345", " days"]),
    ],
)
def test_named_patterns_cut_as_their_vocabularies_were_trained(name, text, pieces):
    assert cut(name, text) == pieces


def test_words_keep_apart_and_digits_come_in_groups():
    assert cut(words(3), "the cat 12345") == ["the", " cat", " ", "123", "45"]
    assert cut(words(1), "12 x") == ["1", "2", " x"]
    assert words(3) == PATTERNS["cl100k"]


def test_superwords_end_at_digits_runs_of_signs_and_indents():
    assert cut(superwords(3), "By the way, 1234 is (a) good()\n    number") == [
        "By the way, ", "123", "4", " is (a) good", "()\n", "   ", " number",
    ]  # fmt: skip
    assert cut(superwords(1), "a12b") == ["a", "1", "2", "b"]


def test_an_expression_of_ones_own_is_taken_and_a_broken_one_or_a_misspelt_name_refused():
    assert cut(r"[ab]+|c", "abcab") == ["ab", "c", "ab"]
    with pytest.raises(ValueError, match="'gpt3' is not a pattern; known: gpt2"):
        byte_level("gpt3")
    with pytest.raises(ValueError, match="not a regular expression"):
        byte_level("(")
