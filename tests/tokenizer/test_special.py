"""The token between documents is found, or named, or asked for."""

import pytest
from tokenizers import AddedToken, Tokenizer, models

from rayllm.core.errors import DataError
from rayllm.tokenizer.special import separator_of


def tokenizer(*special: str, ordinary: str = "</s>") -> Tokenizer:
    made = Tokenizer(models.BPE({"a": 0, ordinary: 1}, []))
    made.add_special_tokens([AddedToken(name, special=True) for name in special])
    return made


def test_the_first_of_the_known_names_is_taken():
    assert separator_of(tokenizer("<eos>", "<|endoftext|>"), "x") == "<|endoftext|>"
    assert separator_of(tokenizer("<eos>"), "x") == "<eos>"


def test_a_configured_one_is_taken_and_must_be_special():
    assert separator_of(tokenizer("<|endoftext|>", "[SEP]"), "x", "[SEP]") == "[SEP]"
    with pytest.raises(DataError, match=r"'\[END\]' is no special token[\s\S]*are \[SEP\][\s\S]*separator"):
        separator_of(tokenizer("[SEP]"), "x", "[END]")
    with pytest.raises(DataError, match="an ordinary token, which documents may contain"):
        separator_of(tokenizer("[SEP]"), "x", "</s>")


def test_a_tokenizer_without_special_tokens_is_refused_with_the_setting_that_gives_it_one():
    with pytest.raises(DataError, match=r"no token that can separate documents[\s\S]*\{'<\|endoftext\|>': 2\}"):
        separator_of(tokenizer(), "x")
