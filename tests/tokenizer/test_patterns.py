"""How texts are cut into pieces."""

import pytest
from tokenizers import Tokenizer

from rayllm.tokenizer.encoders.choice import choose_encoder
from rayllm.tokenizer.patterns import PATTERNS, byte_level, superwords, words
from rayllm.tokenizer.special import ordinary


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


def test_patterns_that_fast_encoders_do_not_know_by_name_leave_no_engine_a_choice():
    odd = "\u180e"
    assert words(2) == (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"
        rf"| ?[^\s{odd}\p{{L}}\p{{N}}]+[\r\n]*|[\s{odd}]*[\r\n]+|[\s{odd}]+(?![^\s{odd}])|[\s{odd}]+"
    )
    assert superwords(2) == rf"\p{{N}}{{1,2}}| ?[^\s{odd}\p{{L}}\p{{N}}]{{2,}}[\r\n/]*| +(?![^\s{odd}])"


@pytest.mark.parametrize("max_digits", [1, 2, 3])
@pytest.mark.parametrize("pattern", [words, superwords])
def test_our_own_patterns_can_be_encoded_fast(pattern, max_digits, codec):
    tokenizer = Tokenizer.from_str(codec.tokenizer.to_str())
    tokenizer.pre_tokenizer = byte_level(pattern(max_digits))
    assert choose_encoder(ordinary(tokenizer)).name == "fastokens"


def test_an_expression_of_ones_own_is_taken_and_a_broken_one_or_a_misspelt_name_refused():
    assert cut(r"[ab]+|c", "abcab") == ["ab", "c", "ab"]
    with pytest.raises(ValueError, match="'gpt3' is not a pattern; known: gpt2"):
        byte_level("gpt3")
    with pytest.raises(ValueError, match="not a regular expression"):
        byte_level("(")
