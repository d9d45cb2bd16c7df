"""The tokenizer that we train."""

import json

import pytest
from tokenizers import Tokenizer

from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.special import NUM_BYTES, smallest_vocab, special_tokens

TEXTS = ["the cat sat on the mat 2024 times", "def f(x):\n    return x + 1234567\n"] * 8


def train(vocab_size: int = 300, max_digits: int = 3, texts: list[str] = TEXTS) -> bytes:
    return train_bpe(iter(texts), vocab_size=vocab_size, min_frequency=2, max_digits=max_digits, num_reserved=2)


def test_the_same_texts_give_the_same_bytes_with_one_and_two_threads(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    first = train()
    assert train() == first
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert train() == first


def test_special_tokens_have_the_first_ids_and_end_of_text_is_zero():
    tokenizer = Tokenizer.from_str(train().decode())
    assert special_tokens(2) == [tokenizer.id_to_token(i) for i in range(6)]
    assert tokenizer.token_to_id("<|endoftext|>") == 0


def test_no_text_at_all_still_gives_every_byte():
    tokenizer = Tokenizer.from_str(train(texts=[]).decode())
    assert tokenizer.get_vocab_size() == smallest_vocab(2) == NUM_BYTES + 6
    assert tokenizer.decode(tokenizer.encode("né €").ids) == "né €"


def test_a_vocabulary_that_the_text_cannot_fill_is_smaller():
    assert Tokenizer.from_str(train(vocab_size=5000).decode()).get_vocab_size() < 5000


@pytest.mark.parametrize(("max_digits", "longest"), [(1, 1), (2, 2), (3, 3)])
def test_no_token_has_more_digits_than_allowed(max_digits, longest):
    texts = ["1234567 1234567 7654321"] * 50
    vocab = json.loads(train(400, max_digits, texts))["model"]["vocab"]
    digits = [token for token in vocab if token.isdigit() and token.isascii()]
    assert max(map(len, digits)) == longest
    assert all(not (token[0] == "Ġ" and token[1:].isdigit()) for token in vocab if len(token) > 1)
