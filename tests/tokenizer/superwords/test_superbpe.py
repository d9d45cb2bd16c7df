"""Tokens across words: learned, limited, and what training meant is what encoding does."""

import argparse
import inspect
import json
import textwrap
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from rayllm.tokenizer.bpe import train_bpe
from rayllm.tokenizer.formats.byte_alphabet import unspell
from rayllm.tokenizer.special import ordinary, special_tokens
from rayllm.tokenizer.superwords.merges import BORDER
from rayllm.tokenizer.superwords.superbpe import Superwords, count_words, encode_pieces, train_superbpe

PROSE = [
    f"By the way, I am a fan of the Milky Way. At the end of the day, number {i} is one of the best: the rest is not."
    for i in range(40)
]
CODE = [inspect.getsource(module) for module in (argparse, textwrap)]
TEXTS = [*PROSE, *CODE]


def train(transition: int = 700, vocab_size: int = 1000, max_words: int = 4, texts: list[str] = TEXTS) -> bytes:
    return train_superbpe(
        lambda: iter(texts),
        Superwords(transition, max_words),
        vocab_size=vocab_size,
        min_frequency=2,
        max_digits=3,
        num_reserved=2,
    )


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return ordinary(Tokenizer.from_str(train().decode()))


def learned(tokenizer: Tokenizer) -> dict[bytes, int]:
    names = special_tokens(2)
    return {unspell(token): index for token, index in tokenizer.get_vocab().items() if token not in names}


def test_phrases_become_tokens_and_text_gets_shorter(trained):
    words = ordinary(
        Tokenizer.from_str(
            train_bpe(iter(TEXTS), vocab_size=1000, min_frequency=2, max_digits=3, num_reserved=2).decode()
        )
    )
    assert trained.get_vocab_size() == words.get_vocab_size() == 1000
    tokens = [sum(len(t.encode(text).ids) for text in PROSE) for t in (trained, words)]
    assert tokens[0] < 0.6 * tokens[1]
    assert b" of the" in learned(trained)


def test_stage_one_is_plain_bpe_and_keeps_its_ids_and_merges_first(trained):
    words = json.loads(train_bpe(iter(TEXTS), vocab_size=700, min_frequency=2, max_digits=3, num_reserved=2))["model"]
    whole = json.loads(trained.to_str())["model"]
    assert whole["merges"][: len(words["merges"])] == words["merges"]
    assert {token: whole["vocab"][token] for token in words["vocab"]} == words["vocab"]


def test_no_token_has_more_words_than_allowed_or_goes_on_behind_a_colon():
    for limit in (1, 2, 4):
        tokens = learned(ordinary(Tokenizer.from_str(train(max_words=limit).decode())))
        assert max(map(count_words, tokens)) == limit
        crossing = [token for token in tokens if count_words(token) > 1]
        assert bool(crossing) == (limit > 1)
        assert not any(b": " in token or b":\n" in token for token in crossing)


def test_one_word_a_token_still_fills_the_vocabulary_within_words():
    tokens = learned(ordinary(Tokenizer.from_str(train(max_words=1).decode())))
    assert len(tokens) == 1000 - len(special_tokens(2))


def test_encoding_leaves_no_learned_pair_unmerged(trained):
    """What training saw is what encoding gives: in its tokens, no pair stands that one of its merges would join."""
    ids = trained.get_vocab()
    merges = {(ids[left], ids[right]) for left, right in json.loads(trained.to_str())["model"]["merges"]}
    tokens = encode_pieces(trained, iter(TEXTS)).tolist()
    assert not merges & set(pairwise(tokens))


def test_a_token_is_found_as_often_as_training_counted_it():
    """Each merge applied to all of the text in its turn, as in training, gives the ids of the encoder."""
    tokenizer = ordinary(Tokenizer.from_str(train(300, 400, texts=PROSE).decode()))
    ids = tokenizer.get_vocab()
    merges = [(ids[left], ids[right]) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]
    state = json.loads(tokenizer.to_str())
    state["model"]["merges"] = []
    letters = ordinary(Tokenizer.from_str(json.dumps(state)))
    tokens = encode_pieces(letters, iter(PROSE)).tolist()
    names = {index: token for token, index in ids.items()}
    for left, right in merges:
        joined, at = ids[names[left] + names[right]], 0
        while at < len(tokens) - 1:
            if (tokens[at], tokens[at + 1]) == (left, right):
                tokens[at : at + 2] = [joined]
            at += 1
    assert tokens == encode_pieces(tokenizer, iter(PROSE)).tolist()


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_any_unicode_text_comes_back_exactly(trained, text):
    assert trained.decode(trained.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text


def test_the_same_texts_give_the_same_bytes_with_one_and_two_threads(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    first = train()
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert train() == first


def test_a_vocabulary_that_the_texts_cannot_fill_is_smaller():
    tokenizer = Tokenizer.from_str(train(180_000, 200_000, texts=PROSE).decode())
    assert 300 < tokenizer.get_vocab_size() < 2000
    assert Tokenizer.from_str(train(500, 600, texts=[]).decode()).get_vocab_size() == 256 + len(special_tokens(2))


def test_pieces_have_borders_where_merges_must_stop(trained):
    tokens = encode_pieces(trained, iter(["on 12345 days", "", "x"]))
    parts = "".join("|" if token == BORDER else trained.decode([token]) for token in tokens)
    assert parts == "|on |123|45| days|x|"
    assert encode_pieces(trained, iter([])).tolist() == [BORDER]
    assert tokens.dtype == np.int32


def test_words_of_a_token_are_counted():
    tokens = (b"", b"  ", b" a", b"By the way", b"a\n\nb c\td", "\u3000中".encode(), " é x".encode()[:2])
    assert [count_words(token) for token in tokens] == [0, 0, 1, 3, 4, 1, 1]
